"""What alert servers send, to be spoilt by tests."""

import json
import time

import loop_bodies

RUN, RUN_ID = "resnet", "0123456789abcdef"


def stamp(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03}Z"


def alert(rule="loss_diverged", *, at, status="firing", fingerprint="f1", annotations=None, **labels):
    """One alert of a webhook."""
    known = {"alertname": "TrimtabLossDiverged", "run": RUN, "run_id": RUN_ID, "severity": "critical", "purpose": "act"}
    labels = {**known, "rule": rule, **labels}
    return {
        "status": status,
        "labels": {name: value for name, value in labels.items() if value is not None},
        "annotations": {"value": "1.5", **(annotations or {})},
        "startsAt": stamp(at),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": fingerprint,
    }


def posted(*alerts, version="4", **more):
    """The body of a webhook request."""
    return json.dumps({"version": version, "status": "firing", "receiver": "run", "alerts": alerts, **more}).encode()


def listed(*alerts, state="active", silenced_by=(), inhibited_by=()):
    """What `GET /api/v2/alerts` answers."""
    status = {"state": state, "silencedBy": list(silenced_by), "inhibitedBy": list(inhibited_by)}
    return json.dumps([{**{k: v for k, v in a.items() if k != "status"}, "status": status} for a in alerts]).encode()


def silence(*matchers, state="active"):
    """One silence: of (name, value) or (name, operator, value)."""
    spelled = [(m[0], "=", m[1]) if len(m) == 2 else m for m in matchers]
    return {
        "id": "5c1c",
        "status": {"state": state},
        "matchers": [
            {"name": name, "value": value, "isRegex": "~" in operator, "isEqual": not operator.startswith("!")}
            for name, operator, value in spelled
        ],
        "comment": "",
        "createdBy": "me",
    }


class Clock:
    """Seconds, as the test says."""

    def __init__(self, now=1_800_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


def mutilated(good, count, draw):
    """`good` with bytes changed, left out and doubled, in `count` ways. `draw` is a `random.Random`."""
    return (loop_bodies.mutilated(good, draw) for _ in range(count))
