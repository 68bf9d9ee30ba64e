"""`POST /api/v1/alerts`: a WSGI application for Alertmanager's and Grafana's webhooks, behind a token.

It acknowledges and decides nothing: alerts wait in the inbox for a step. What is refused for good is answered 200 and
counted as ignored, since a server would send it again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from trimtab import tokens
from trimtab.alerts import payloads
from trimtab.alerts.inbox import TOO_LATE, Inbox
from trimtab.alerts.payloads import Malformed

PATH = "/api/v1/alerts"
MAX_BODY = 1024 * 1024
RETRY_S = "10"

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_STATUS = {
    401: "401 Unauthorized",
    405: "405 Method Not Allowed",
    411: "411 Length Required",
    413: "413 Content Too Large",
    400: "400 Bad Request",
    503: "503 Service Unavailable",
    200: "200 OK",
}
_HEADERS = {
    401: [("WWW-Authenticate", 'Bearer realm="trimtab alerts"')],
    405: [("Allow", "POST")],
    503: [("Retry-After", RETRY_S)],
}


def application(inbox: Inbox, token: bytes, published: Callable[[], None] = lambda: None) -> Application:
    """The WSGI application. `published` is called when anything was counted, on the server's thread.

    A request costs 5 us for each alert, up to 5 ms of Python; nothing of it is on the thread that trains.
    """

    def respond(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, content = _answer(environ, inbox, token)
        if status in (200, 400, 503):
            published()
        body = msgspec.json.encode(content)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(_STATUS[status], headers + _HEADERS.get(status, []))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return respond


def _answer(environ: dict[str, Any], inbox: Inbox, token: bytes) -> tuple[int, dict[str, Any]]:
    if environ["REQUEST_METHOD"] != "POST":
        return 405, {"error": "expected POST"}
    if not tokens.carries(environ.get("HTTP_AUTHORIZATION", ""), token):
        return 401, {"error": "expected the token of webhook_token_file, as 'Authorization: Bearer ...'"}
    body = _body(environ)
    if isinstance(body, int):
        return body, {"error": f"expected a body of known length, up to {MAX_BODY} bytes"}
    try:
        alerts, unreadable = payloads.webhook(body)
    except Malformed as problem:
        inbox.count("webhook", "malformed")
        return 400, {"error": str(problem)}
    inbox.heard("webhook")
    inbox.count("webhook", "malformed", unreadable)
    outcomes = inbox.offer(alerts)
    counts = {"accepted": outcomes.pop("taken", 0), "duplicate": outcomes.pop("duplicate", 0)}
    late = sum(outcomes.pop(outcome, 0) for outcome in TOO_LATE)
    counts["ignored"] = sum(outcomes.values()) + unreadable
    return (503, {**counts, "error": f"{late} alerts more than can be taken in now"}) if late else (200, counts)


def _body(environ: dict[str, Any]) -> bytes | int:
    """The body, or the status to refuse it with."""
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return 411
    try:
        length = int(environ.get("CONTENT_LENGTH") or -1)
    except ValueError:
        return 400
    if length < 0:
        return 411
    if length > MAX_BODY:
        return 413
    body: bytes = environ["wsgi.input"].read(length)
    return body if len(body) == length else 400
