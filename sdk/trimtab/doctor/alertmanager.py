"""The links at Alertmanager: reached, the token accepted, and alerts arriving."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.doctor.finding import Finding, ok, wrong
from trimtab.doctor.http import Http, Unanswered

ALWAYS_FIRING = "TrimtabAlertPathAlive"
TOKEN_VARIABLE = "TRIMTAB_ALERTS_TOKEN_FILE"


def check(url: str, token: str | None) -> Iterator[Finding]:
    """Every link at the Alertmanager of `url`."""
    server = Http(url, token)
    try:
        status = server.json("/api/v2/status")
        yield ok("alertmanager", f"{url}, version {status['versionInfo']['version']}")
        yield ok("token", "accepted" if token else "none is needed")
        yield _arriving(server.json("/api/v2/alerts", filter=f'alertname="{ALWAYS_FIRING}"'))
    except Unanswered as error:
        yield _refused(url, token, error)
    except (LookupError, TypeError, AttributeError):
        yield wrong(
            "alertmanager", f"{url} answers, but not as Alertmanager does.", "Give its address: --alertmanager URL."
        )


def _refused(url: str, token: str | None, error: Unanswered) -> Finding:
    if error.status not in (401, 403):
        return wrong("alertmanager", f"{error}.", "Start one: make stack. One that runs elsewhere: --alertmanager URL.")
    if token is None:
        return wrong(
            "token", f"{url} wants a token.", f"Write it into a file, chmod 600, and name it: {TOKEN_VARIABLE}."
        )
    return wrong("token", f"{url} refuses the token ({error.status}).", f"Does {TOKEN_VARIABLE} name the right file?")


def _arriving(alerts: list[object]) -> Finding:
    if alerts:
        return ok("alerts", f"{ALWAYS_FIRING}, which always fires, has arrived")
    return wrong(
        "alerts",
        f"{ALWAYS_FIRING}, which always fires, is not there.",
        "Let Prometheus load the rules and send alerts to this Alertmanager; it takes up to a minute after its start.",
    )
