"""An HTTP server with the few endpoints of Grafana that are used here, and its status codes.

After Grafana's HTTP API reference and `pkg/api/{folder,dashboard,annotations,datasources}.go`: no real Grafana.
"""

import copy
import json
import re
import sys
from http.server import BaseHTTPRequestHandler

from loopback import LoopbackServer

TOKEN = "glsa_0123456789abcdefghijklmnopqrstuv_01234567"


class GrafanaServer(LoopbackServer):
    """Serves `http://127.0.0.1:<port>/grafana`. `requests` holds every method and path that came with the token."""

    def __init__(self):
        self.datasources = [{"uid": "prom", "name": "Prometheus", "type": "prometheus", "isDefault": True}]
        self.folders = {}
        self.dashboards = {}  # uid to what GET answers
        self.annotations = []
        self.requests = []
        self.answer = None  # (status, headers, body) in place of every answer
        self.routes = [
            ("GET", r"/api/health", lambda _: (200, {"database": "ok", "version": "11.6.0"})),
            ("GET", r"/api/datasources", lambda _: (200, self.datasources)),
            ("GET", r"/api/folders/([^/]+)", self.get_folder),
            ("POST", r"/api/folders", self.post_folder),
            ("GET", r"/api/dashboards/uid/([^/]+)", self.get_dashboard),
            ("POST", r"/api/dashboards/db", self.post_dashboard),
            ("POST", r"/api/annotations", self.post_annotation),
            ("PATCH", r"/api/annotations/(\d+)", self.patch_annotation),
        ]
        super().__init__(self._handler(), "/grafana")

    @property
    def writes(self):
        return [path for method, path in self.requests if method != "GET"]

    def get_folder(self, _, uid):
        found = self.folders.get(uid)
        return (200, found) if found else (404, {"message": "folder not found", "status": "not-found"})

    def post_folder(self, body):
        if not body.get("title"):
            return 400, {"message": "folder title cannot be empty"}
        if body["uid"] in self.folders:
            return 409, {"message": "a folder/dashboard with the same uid already exists"}
        self.folders[body["uid"]] = {"id": len(self.folders) + 1, "version": 1, **body}
        return 200, self.folders[body["uid"]]

    def get_dashboard(self, _, uid):
        return (200, self.dashboards[uid]) if uid in self.dashboards else (404, {"message": "Dashboard not found"})

    def post_dashboard(self, body):
        given = copy.deepcopy(body["dashboard"])
        if not given.get("title"):
            return 400, {"message": "Dashboard title cannot be empty", "status": "empty-name"}
        if body.get("folderUid") and body["folderUid"] not in self.folders:
            return 400, {"message": "folder not found"}
        there = self.dashboards.get(given["uid"])
        if there and there["meta"].get("provisioned"):
            return 400, {"message": "Cannot save provisioned dashboard"}
        if there and not body.get("overwrite") and given.get("version") != there["dashboard"]["version"]:
            text = "The dashboard has been changed by someone else"
            return 412, {"message": text, "status": "version-mismatch"}
        version = there["dashboard"]["version"] + 1 if there else 1
        number = there["dashboard"]["id"] if there else len(self.dashboards) + 1
        given.update(id=number, version=version)
        meta = {"folderUid": body.get("folderUid", ""), "version": version, "provisioned": False}
        self.dashboards[given["uid"]] = {"dashboard": given, "meta": meta}
        return 200, {"id": number, "uid": given["uid"], "status": "success", "version": version, "slug": given["uid"]}

    def post_annotation(self, body):
        if not body.get("text"):
            return 400, {"message": "Failed to save annotation"}
        self.annotations.append(body)
        return 200, {"message": "Annotation added", "id": len(self.annotations)}

    def patch_annotation(self, body, id):
        if not 0 < int(id) <= len(self.annotations):
            return 404, {"message": "Annotation not found"}
        self.annotations[int(id) - 1].update(body)
        return 200, {"message": "Annotation patched"}

    def _respond(self, method, path, body):
        for verb, pattern, found in self.routes:
            matched = re.fullmatch("/grafana" + pattern, path.split("?")[0])
            if verb == method and matched:
                return found(body, *matched.groups())
        return 404, {"message": "Not found"}

    def _handler(server):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"null")
                headers = {"Content-Type": "application/json"}
                if server.answer is not None:
                    status, headers, content = server.answer
                elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    status, content = 401, json.dumps({"message": "Invalid API key"})
                else:
                    server.requests.append((self.command, self.path))
                    status, found = server._respond(self.command, self.path, body)
                    content = json.dumps(found)
                content = content.encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        return Handler


if __name__ == "__main__":  # in a process of its own, until its stdin is closed
    server = GrafanaServer()
    print(server.url, flush=True)
    sys.stdin.read()
    server.close()
