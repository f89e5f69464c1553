// A chat beside Holdfast, in plain Java with Gson: Holdfast keeps the sockets, this program keeps nothing.
import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

import static java.nio.charset.StandardCharsets.UTF_8;

public class Main {
    static final String ADMIN = System.getenv().getOrDefault("HOLDFAST_ADMIN", "http://127.0.0.1:8001");
    static final String TOKEN = System.getenv("HOLDFAST_ADMIN_TOKEN");
    static final byte[] KEY = Base64.getDecoder().decode(System.getenv("HOLDFAST_SIGNING_SECRET").replaceFirst("^whsec_", ""));
    static final Gson GSON = new Gson();
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final ScheduledExecutorService LATER = Executors.newSingleThreadScheduledExecutor();

    public static void main(String[] arguments) throws IOException {
        var port = Integer.parseInt(System.getenv().getOrDefault("PORT", "3000"));
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.setExecutor(Executors.newFixedThreadPool(32));
        server.createContext("/events", Main::events);
        server.start();
    }

    static void events(HttpExchange exchange) throws IOException {
        // The signature is of the body's bytes, so the body is taken as it came.
        var body = exchange.getRequestBody().readAllBytes();
        if (!isSigned(exchange, body)) {
            answer(exchange, 401, "text/plain", "bad signature");
            return;
        }
        var event = JsonParser.parseString(new String(body, UTF_8)).getAsJsonObject();
        switch (event.get("type").getAsString()) {
            case "holdfast.connect" -> connect(exchange, event.getAsJsonObject("data"));
            case "holdfast.disconnect" -> {
                System.out.println(text(event, "userid") + " left: " + text(event.getAsJsonObject("data"), "cause"));
                exchange.sendResponseHeaders(204, -1);
            }
            default -> message(exchange, event);
        }
    }

    /** Accepts the socket, says whose it is and puts it into a group. The body is the first frame. */
    static void connect(HttpExchange exchange, JsonObject data) throws IOException {
        var user = text(data.getAsJsonObject("query"), "user");
        if (!user.matches("[a-z0-9]{1,32}")) {
            answer(exchange, 403, "text/plain", "say who you are: ?user=ann");
            return;
        }
        exchange.getResponseHeaders().set("Holdfast-User", user);
        exchange.getResponseHeaders().set("Holdfast-Join", "lobby");
        answer(exchange, 200, "application/json", GSON.toJson(Map.of("type", "chat.welcome", "user", user)));
    }

    static void message(HttpExchange exchange, JsonObject event) throws IOException {
        var data = event.getAsJsonObject("data");
        var connection = text(event, "connectionid");
        switch (text(event, "event")) {
            case "chat.send" -> {
                // Commands: the first goes to the sender, the second to everybody else in the group.
                var message = Map.of("type", "chat.message", "from", text(event, "userid"), "text", text(data, "text"));
                var others = Map.of("group", "lobby", "except", List.of(connection));
                var sent = Map.of("type", "chat.sent", "seq", event.get("seq"));
                var commands = List.of(Map.of("send", Map.of("data", sent)), Map.of("send", Map.of("to", others, "data", message)));
                answer(exchange, 200, "application/vnd.holdfast.commands+json", GSON.toJson(commands));
            }
            case "chat.remind" -> {
                var reminder = Map.of("type", "chat.reminder", "text", text(data, "text"));
                LATER.schedule(() -> push(connection, reminder), data.get("after_ms").getAsLong(), TimeUnit.MILLISECONDS);
                exchange.sendResponseHeaders(204, -1);
            }
            default -> answer(exchange, 404, "text/plain", "no such event");
        }
    }

    /** Any process may push to a socket at any time, by the connection's ID. */
    static void push(String connection, Map<String, String> message) {
        var request = HttpRequest.newBuilder(URI.create(ADMIN + "/v1/connections/" + connection + "/messages"))
            .header("Content-Type", "application/json").header("Authorization", "Bearer " + TOKEN)
            .POST(HttpRequest.BodyPublishers.ofString(GSON.toJson(message))).build();
        CLIENT.sendAsync(request, BodyHandlers.ofString()).whenComplete((response, error) ->
            System.out.println("push to " + connection + ": " + (error == null ? response.statusCode() : error)));
    }

    /** Standard Webhooks: an HMAC of ID, time and body, of which the header may hold several. Older than five minutes is a replay. */
    static boolean isSigned(HttpExchange exchange, byte[] body) {
        var headers = exchange.getRequestHeaders();
        var time = headers.getFirst("webhook-timestamp");
        var signatures = headers.getFirst("webhook-signature");
        try {
            if (signatures == null || Math.abs(Instant.now().getEpochSecond() - Long.parseLong(time)) > 300) return false;
            var mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(KEY, "HmacSHA256"));
            mac.update((headers.getFirst("webhook-id") + "." + time + ".").getBytes(UTF_8));
            var expected = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes(UTF_8);
            for (var signature : signatures.split(" ")) {
                if (MessageDigest.isEqual(expected, signature.getBytes(UTF_8))) return true;
            }
            return false;
        } catch (NumberFormatException | GeneralSecurityException e) {
            return false;
        }
    }

    static void answer(HttpExchange exchange, int status, String type, String body) throws IOException {
        var bytes = body.getBytes(UTF_8);
        exchange.getResponseHeaders().set("Content-Type", type);
        exchange.sendResponseHeaders(status, bytes.length);
        exchange.getResponseBody().write(bytes);
        exchange.close();
    }

    static String text(JsonObject object, String name) {
        return object.has(name) ? object.get(name).getAsString() : "";
    }
}
