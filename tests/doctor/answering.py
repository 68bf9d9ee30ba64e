"""Servers that answer as those do which the doctor asks."""

import contextlib
import http.server
import json
import threading


class Answering(http.server.BaseHTTPRequestHandler):
    """What `get` answers with `answer`."""

    def do_GET(self):
        self.get()

    def answer(self, status, content=b"", **headers):
        """What is no bytes is answered as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(handler, **given):
    """A server on a port of its own, with what is given as its attributes."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    for name, value in given.items():
        setattr(server, name, value)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
