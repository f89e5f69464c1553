// A chat beside Holdfast, in Go: Holdfast keeps the sockets, this program keeps nothing.
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

type object = map[string]any

// An event, as far as this program reads it.
type event struct {
	Type, Event, ConnectionID, UserID string
	Seq                               uint64
	Data                              struct {
		Query       map[string]string // of connect
		Cause       string            // of disconnect
		Text        string
		AfterMillis int64 `json:"after_ms"`
	}
}

var (
	key      = secret()
	admin    = setting("HOLDFAST_ADMIN", "http://127.0.0.1:8001")
	userName = regexp.MustCompile(`^[a-z0-9]{1,32}$`)
)

func main() {
	http.HandleFunc("/events", events)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+setting("PORT", "3000"), nil))
}

func events(w http.ResponseWriter, r *http.Request) {
	// The signature is of the body's bytes, so the body is taken as it came.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil || !isSigned(r.Header, body) {
		http.Error(w, "bad signature", http.StatusUnauthorized)
		return
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch {
	case e.Type == "holdfast.connect":
		connect(w, e)
	case e.Type == "holdfast.disconnect":
		log.Printf("%s left: %s", e.UserID, e.Data.Cause)
		w.WriteHeader(http.StatusNoContent)
	case e.Event == "chat.send":
		send(w, e)
	case e.Event == "chat.remind":
		later := time.Duration(e.Data.AfterMillis) * time.Millisecond
		time.AfterFunc(later, func() { push(e.ConnectionID, object{"type": "chat.reminder", "text": e.Data.Text}) })
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "no such event", http.StatusNotFound)
	}
}

// Accepts the socket, says whose it is and puts it into a group. The body is the first frame.
func connect(w http.ResponseWriter, e event) {
	user := e.Data.Query["user"]
	if !userName.MatchString(user) {
		http.Error(w, "say who you are: ?user=ann", http.StatusForbidden)
		return
	}
	w.Header().Set("Holdfast-User", user)
	w.Header().Set("Holdfast-Join", "lobby")
	answer(w, "application/json", object{"type": "chat.welcome", "user": user})
}

// Commands: the first goes to the sender, the second to everybody else in the group.
func send(w http.ResponseWriter, e event) {
	message := object{"type": "chat.message", "from": e.UserID, "text": e.Data.Text}
	others := object{"group": "lobby", "except": []string{e.ConnectionID}}
	answer(w, "application/vnd.holdfast.commands+json", []object{
		{"send": object{"data": object{"type": "chat.sent", "seq": e.Seq}}},
		{"send": object{"to": others, "data": message}},
	})
}

// Any process may push to a socket at any time, by the connection's ID.
func push(connection string, message object) {
	body, _ := json.Marshal(message)
	url := fmt.Sprintf("%s/v1/connections/%s/messages", admin, connection)
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		log.Printf("push to %s: %v", connection, err)
		return
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+os.Getenv("HOLDFAST_ADMIN_TOKEN"))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Printf("push to %s: %v", connection, err)
		return
	}
	response.Body.Close()
	log.Printf("push to %s: %s", connection, response.Status)
}

// Standard Webhooks: an HMAC of ID, time and body, of which the header may hold several. Anything older than five minutes is a replay.
func isSigned(header http.Header, body []byte) bool {
	stamp := header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if age := time.Since(time.Unix(seconds, 0)); err != nil || age > 5*time.Minute || age < -5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", header.Get("webhook-id"), stamp, body)
	expected := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	for _, signature := range strings.Fields(header.Get("webhook-signature")) {
		if hmac.Equal(expected, []byte(signature)) {
			return true
		}
	}
	return false
}

func answer(w http.ResponseWriter, contentType string, body any) {
	w.Header().Set("Content-Type", contentType)
	_ = json.NewEncoder(w).Encode(body)
}

func secret() []byte {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(os.Getenv("HOLDFAST_SIGNING_SECRET"), "whsec_"))
	if err != nil || len(key) == 0 {
		log.Fatal("HOLDFAST_SIGNING_SECRET: expected whsec_ and base64")
	}
	return key
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
