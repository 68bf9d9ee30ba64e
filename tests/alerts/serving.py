"""A server that speaks Alertmanager's API, and whatever else a test makes it say."""

import contextlib
import socket
import threading


def http(body, status="200 OK", kind="application/json", *headers):
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Server:
    """Answers each request with what `answer(path)` returns: bytes, or an iterator of them, which is sent as it comes.

    It speaks through a bare socket, since it must also say what no server of the library would.
    """

    def __init__(self, answer, tls=None):
        self.answer = answer
        self._tls = tls
        self.requests = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        scheme, port = "https" if tls else "http", self._listening.getsockname()[1]
        self.address = f"{scheme}://127.0.0.1:{port}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection, contextlib.suppress(OSError), self._spoken(connection) as spoken:
                    self._talk(spoken)

    def _spoken(self, connection):
        return self._tls.wrap_socket(connection, server_side=True) if self._tls else contextlib.nullcontext(connection)

    def _talk(self, connection):
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65_536)
        self.requests.append(request.decode())
        answer = self.answer(request.split()[1].decode())
        for piece in [answer] if isinstance(answer, bytes) else answer:
            connection.sendall(piece)

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)
