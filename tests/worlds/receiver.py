"""Who is told by webhooks."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """A server that keeps what it gets; the path says how it behaves."""

    def __init__(self):
        self.got = []
        self.gate = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if len(body) < int(self.headers["content-length"]):
                    return  # the sender died in the middle of it
                receiver.got.append((self.path, dict(self.headers), body))
                if self.path == "/hang":
                    receiver.gate.wait(30)
                    return
                status = {"/500": 500, "/elsewhere": 307}.get(self.path, 204)
                self.send_response(status)
                if status == 307:
                    self.send_header("location", "/ok")
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path="/ok"):
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def docs(self):
        return [json.loads(body) for _, _, body in self.got]

    def events(self):
        return [doc["event"] for doc in self.docs()]

    def close(self):
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
