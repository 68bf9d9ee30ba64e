"""The links at Alertmanager, or at the one that a Grafana holds: reached, alerts arriving, and what is silenced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trimtab.alerts import payloads
from trimtab.alerts.silences import covered, expected_labels
from trimtab.catalog import ALERT_PATH, IN_GRAFANA
from trimtab.catalog.rules import RULES
from trimtab.discovery import Target
from trimtab.doctor.finding import Finding, ok, wrong
from trimtab.doctor.http import Http, Unanswered

TOKEN_VARIABLE, CA_VARIABLE = "TRIMTAB_ALERTS_TOKEN_FILE", "TRIMTAB_ALERTS_CA_FILE"


def check(
    url: str, token: str | None, certificates: Path | None = None, target: Target | None = None
) -> Iterator[Finding]:
    """Every link at the Alertmanager of `url`, and the silences that hold for the run of `target`."""
    server = Http(url, token, certificates=certificates)
    try:
        prefix, version = _found(server)
        yield ok("alertmanager", f"{url}, {version}")
        yield ok("token", "accepted" if token else "none is needed")
        yield _arriving(server.json(f"{prefix}/api/v2/alerts", filter=f'alertname="{ALERT_PATH}"'))
        if target is not None:
            yield _silenced(payloads.silences(server.text(f"{prefix}/api/v2/silences").encode()), target)
    except Unanswered as error:
        yield _refused(url, token, error)
    except (LookupError, TypeError, AttributeError, payloads.Malformed):
        yield _another(url)


def _found(server: Http) -> tuple[str, str]:
    """What comes before the paths of the API, and what serves it: as a run tells the two apart."""
    try:
        return "", f"version {server.json('/api/v2/status')['versionInfo']['version']}"
    except Unanswered as error:
        if error.status != 404:
            raise
    server.json(f"{IN_GRAFANA}/api/v2/status")
    return IN_GRAFANA, "the Alertmanager of a Grafana"


def _refused(url: str, token: str | None, error: Unanswered) -> Finding:
    if error.untrusted:
        return wrong("alertmanager", f"{error}.", f"Name the certificate of its authority: {CA_VARIABLE}.")
    if error.status == 404:
        return _another(url)
    if error.status not in (401, 403):
        return wrong("alertmanager", f"{error}.", "Start one: make stack. One that runs elsewhere: --alertmanager URL.")
    if token is None:
        return wrong(
            "token", f"{url} wants a token.", f"Write it into a file, chmod 600, and name it: {TOKEN_VARIABLE}."
        )
    return wrong("token", f"{url} refuses the token ({error.status}).", f"Does {TOKEN_VARIABLE} name the right file?")


def _another(url: str) -> Finding:
    said = f"{url} answers, but not as Alertmanager does."
    return wrong("alertmanager", said, "Give its address: --alertmanager URL.")


def _arriving(alerts: list[object]) -> Finding:
    if alerts:
        return ok("alerts", f"{ALERT_PATH}, which always fires, has arrived")
    return wrong(
        "alerts",
        f"{ALERT_PATH}, which always fires, is not there.",
        "Let Prometheus load the rules and send alerts to this Alertmanager; it takes up to a minute after its start.",
    )


def _silenced(silences: list[payloads.Silence], target: Target) -> Finding:
    """As the run itself reads them. A silence is somebody's wish, so that it is told is all."""
    labels = expected_labels(target.run, target.run_id, RULES)
    rules, _ = covered(silences, labels)
    if not rules:
        return ok("silences", f"none holds for {target.run}")
    which = "every rule" if len(rules) == len(RULES) else ", ".join(sorted(rules))
    said = f"{which} of {target.run}: nothing is done about what they find."
    return Finding("ok", "silences", said, "To end one: amtool silence query, then amtool silence expire ID.")
