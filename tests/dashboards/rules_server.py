"""The endpoints of Grafana's alerting provisioning API that `trimtab rules push` uses, and their status codes.

After the reference of that API and `pkg/services/ngalert/api/tooling/definitions`: no real Grafana.
"""

import copy

from grafana_server import GrafanaServer

GROUP = r"/api/v1/provisioning/folder/([^/]+)/rule-groups/([^/]+)"


class RulesServer(GrafanaServer):
    """A Grafana that keeps groups of rules. What it gives back has fields of its own, and its own durations."""

    def __init__(self, *, knows_keep_firing_for=True):
        super().__init__()
        self.groups = {}
        self._knows_keep = knows_keep_firing_for
        self.routes += [("GET", GROUP, self.get_group), ("PUT", GROUP, self.put_group)]

    def get_group(self, _, folder, name):
        found = self.groups.get((folder, name))
        return (200, found) if found else (404, {"message": "rule group not found"})

    def put_group(self, body, folder, name):
        if folder not in self.folders:
            return 404, {"message": "folder not found"}
        if body["interval"] % 10:
            return 400, {"message": "interval should be a multiple of 10 seconds"}
        uids = [rule["uid"] for rule in body["rules"]]
        if len(set(uids)) < len(uids) or not all(rule["data"] and rule["condition"] for rule in body["rules"]):
            return 400, {"message": "invalid alert rule"}
        self.groups[folder, name] = {
            **{key: body[key] for key in ("title", "folderUid", "interval")},
            "rules": [self._kept(number, rule) for number, rule in enumerate(body["rules"], start=1)],
        }
        return 200, self.groups[folder, name]

    def _kept(self, number, rule):
        kept = {**copy.deepcopy(rule), "id": number, "updated": "2026-11-24T00:00:00Z", "notification_settings": None}
        kept["for"] = {"2m": "2m0s", "5m": "300s"}.get(rule["for"], rule["for"])
        for query in kept["data"]:
            query["queryType"] = ""
        if not self._knows_keep:
            del kept["keep_firing_for"]
        return kept
