"""Echoes each event to its sender: the handler behind the endpoint that Autobahn talks to. `handler.py PORT`."""
import http.server
import socketserver
import sys

COMMANDS = "application/vnd.holdfast.commands+json"


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        kind = self.headers.get("content-type", "application/octet-stream")
        if not body:
            # An empty answer sends nothing: an empty frame needs a command.
            payload = b'{"text":""}' if kind.startswith("text/") else b'{"binary":""}'
            body, kind = b'[{"send":' + payload + b"}]", COMMANDS
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
