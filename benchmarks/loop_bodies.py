"""Webhook requests that no alert server would send, from a seed: none of them may crash, hang or act."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

MAX_BODY = 1024 * 1024
MAX_ALERTS = 1_000


def good(alert: dict[str, Any], version: str = "4") -> bytes:
    """A request as it should be."""
    return json.dumps({"version": version, "status": "firing", "receiver": "run", "alerts": [alert]}).encode()


def malformed(alert: dict[str, Any], count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` requests that are spoilt, with the name of how. `alert` is one that would act."""
    draw, made = random.Random(seed), 0
    kinds = list(KINDS)
    while made < count:
        kind = draw.choices(kinds, [KINDS[name][1] for name in kinds])[0]
        body = KINDS[kind][0](alert, draw)
        if not would_act(body, alert):
            made += 1
            yield kind, body


def would_act(body: bytes, alert: dict[str, Any]) -> bool:
    """Whether spoiling left a request that still says what `alert` says. Judged by `json` alone, not by our reader."""
    try:
        request = json.loads(body) if len(body) <= MAX_BODY else {}
        alerts = request["alerts"] if len(request["alerts"]) <= MAX_ALERTS else []
        return request["version"] in ("1", "4") and any(_same(each, alert) for each in alerts)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _same(found: Any, alert: dict[str, Any]) -> bool:
    try:
        datetime.fromisoformat(found["startsAt"].replace("Z", "+00:00"))
        labels = {name: found["labels"].get(name, "") for name in ("rule", "run_id")}
        return found["status"] == "firing" and labels == {name: alert["labels"][name] for name in labels}
    except (ValueError, TypeError, KeyError, AttributeError):
        return False


def _mutilated(alert: dict[str, Any], draw: random.Random) -> bytes:
    return mutilated(good(alert), draw)


def mutilated(sound: bytes, draw: random.Random) -> bytes:
    """`sound` with bytes changed, left out and doubled."""
    body = bytearray(sound)
    for _ in range(draw.randint(1, 6)):
        at, what = draw.randrange(len(body)), draw.random()
        if what < 0.4:
            body[at] = draw.randrange(256)
        elif what < 0.7:
            del body[at : at + draw.randint(1, 40)]
        else:
            body[at:at] = body[at : at + draw.randint(1, 200)]
    return bytes(body)


def _cut_short(alert: dict[str, Any], draw: random.Random) -> bytes:
    body = good(alert)
    return body[: draw.randrange(len(body))]


def _binary(alert: dict[str, Any], draw: random.Random) -> bytes:
    return draw.randbytes(draw.randrange(4_096))


def _deep(alert: dict[str, Any], draw: random.Random) -> bytes:
    opening, closing = draw.choice([(b"[", b"]"), (b'{"a":', b"}")])
    depth = draw.choice([20, 900, 1_100, 20_000, 100_000])
    inner = opening * depth + b"1" + closing * draw.choice([depth, 0])
    place = draw.choice([b'{"version": "4", "alerts": %s}', b'{"version": "4", "alerts": [], "x": %s}', b"%s"])
    return place % inner


def _of_other_kinds(alert: dict[str, Any], draw: random.Random) -> bytes:
    """A value that is required is something else."""
    spoilt = json.loads(json.dumps(alert))
    place = draw.choice([spoilt, spoilt["labels"]])
    required = ("status", "labels", "startsAt", "fingerprint") if place is spoilt else ("rule", "run_id")
    place[draw.choice(required)] = _anything(draw)
    return good(spoilt)


def _anything(draw: random.Random) -> Any:
    values: list[Any] = [None, True, 0, -1, 1e308, 10**400, "", "\x00", "x" * 5_000, "\u202e", [], {}, [[]], {"a": {}}]
    return draw.choice(values)


def _of_other_versions(alert: dict[str, Any], draw: random.Random) -> bytes:
    request = json.loads(good(alert))
    request["version"] = draw.choice([None, 4, 4.0, "", "0", "2", "3", "5", "44", "4 ", ["4"], {"4": 4}])
    return json.dumps(request).encode()


def _too_many(alert: dict[str, Any], draw: random.Random) -> bytes:
    """More alerts than are read, each of which would act."""
    one = json.dumps({**alert, "annotations": {}})
    many = MAX_ALERTS + draw.randint(1, 1_000)
    return ('{"version": "4", "alerts": [' + ", ".join([one] * many) + "]}").encode()


def _too_large(alert: dict[str, Any], draw: random.Random) -> bytes:
    return good(alert) + b" " * (MAX_BODY + draw.randint(0, 100_000))


def _encoded(alert: dict[str, Any], draw: random.Random) -> bytes:
    body = good(alert)
    encodings: list[Callable[[], bytes]] = [
        lambda: gzip.compress(body),
        lambda: body.decode().encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + body,
        lambda: body.decode().encode("utf-32-le"),
        lambda: body.replace(b'"', b"'"),
        lambda: body + body,
        lambda: b"alerts=" + body,
    ]
    return draw.choice(encodings)()


def _hostile(alert: dict[str, Any], draw: random.Random) -> bytes:
    """Well formed, with labels that are meant for something else."""
    texts = [
        "\x1b[2J\x1b[31m",
        "../../etc/passwd",
        "{{ $labels.run }}",
        '"} 1\nup 0',
        "\u0000",
        "a" * 200,
        "\ud800",
        "=1+1",
    ]
    labels = {**alert["labels"], "rule": draw.choice(texts), draw.choice(texts): draw.choice(texts)}
    return good({**alert, "labels": labels, "fingerprint": draw.choice(texts) + str(draw.random())})


# How a body is spoilt, and how often.
KINDS: dict[str, tuple[Callable[[dict[str, Any], random.Random], bytes], float]] = {
    "mutilated": (_mutilated, 40),
    "cut short": (_cut_short, 12),
    "binary": (_binary, 10),
    "deep": (_deep, 4),
    "of other kinds": (_of_other_kinds, 14),
    "of other versions": (_of_other_versions, 6),
    "too many alerts": (_too_many, 1),
    "too large": (_too_large, 1),
    "encoded": (_encoded, 6),
    "hostile labels": (_hostile, 6),
}
