"""An HTTP server on a port of its own, for servers that tests play."""

import threading
from http.server import ThreadingHTTPServer


class LoopbackServer:
    """Answers by `handler`, on a thread of its own. `url` ends in `path`."""

    def __init__(self, handler, path):
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}{path}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self):
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
