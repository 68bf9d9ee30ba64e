"""What alert servers send, decoded: strict about what is used, ignorant of all else.

Alertmanager's webhook (version 4) and Grafana's (version 1), and the answers of Alertmanager's API v2, which Grafana
serves too. Labels that are not used are skipped without being kept. One alert that cannot be read does not spoil the
others of its request.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from trimtab.types import AlertSource

MAX_ALERTS = 1_000  # in a request
MAX_LABEL = 256  # characters of a label that is used

Label = Annotated[str, Meta(max_length=MAX_LABEL)]
Moment = Annotated[datetime, Meta(tz=True)]

_GRAFANA_STATES = ("DatasourceNoData", "DatasourceError")  # what such an alert is called, in place of its rule
_TESTS = ("TestAlert",)


class Malformed(ValueError):
    """What came is no payload that is understood; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One alert as it came in. Nothing in it is trusted yet."""

    source: AlertSource
    name: str
    rule: str = ""
    run: str = ""
    run_id: str = ""
    severity: str = ""
    purpose: str = ""
    fingerprint: str
    starts_at: float  # seconds since the epoch
    state: Literal["firing", "resolved", "suppressed"]
    value: float | None = None
    real: bool = True  # False: the server's own word that it has no data, an error, or tries the way out

    @property
    def subject(self) -> str:
        """The rule of ours that it is about, as it says, or else itself: `alert:NAME`."""
        return self.rule or f"alert:{self.name}"


class _Labels(Struct):
    alertname: Label = ""
    run: Label = ""
    run_id: Label = ""
    rule: Label = ""
    severity: Label = ""
    purpose: Label = ""


class _Annotations(Struct):
    value: str = ""
    grafana_state_reason: str = ""


class _Posted(Struct, rename="camel"):
    status: Literal["firing", "resolved"]
    labels: _Labels
    starts_at: Moment
    fingerprint: Label
    annotations: _Annotations = msgspec.field(default_factory=_Annotations)


class _Webhook(Struct):
    version: str
    alerts: list[Raw]


class _Status(Struct, rename="camel"):
    state: str
    silenced_by: list[str] = []
    inhibited_by: list[str] = []


class _Listed(Struct, rename="camel"):
    labels: _Labels
    starts_at: Moment
    fingerprint: Label
    status: _Status
    annotations: _Annotations = msgspec.field(default_factory=_Annotations)


class Matcher(Struct, rename="camel"):
    """One condition of a silence."""

    name: str
    value: str
    is_regex: bool
    is_equal: bool = True


class _SilenceStatus(Struct):
    state: str


class Silence(Struct, rename="camel"):
    """Who silenced what, and whether it holds now."""

    id: str
    status: _SilenceStatus
    matchers: list[Matcher]

    @property
    def active(self) -> bool:
        """Whether it holds now; without a matcher it would hold for everything, which no server allows."""
        return self.status.state == "active" and bool(self.matchers)


_webhook = msgspec.json.Decoder(_Webhook)
_posted = msgspec.json.Decoder(_Posted)
_raws = msgspec.json.Decoder(list[Raw])
_listed = msgspec.json.Decoder(_Listed)
_silences = msgspec.json.Decoder(list[Silence])

# A RecursionError is how msgspec says "too deep"; the others come of dates and numbers out of range.
_UNREADABLE = (msgspec.DecodeError, RecursionError, ValueError, OverflowError)


def webhook(body: bytes) -> tuple[list[Incoming], int]:
    """The alerts of a webhook request, and how many more could not be read.

    Raises:
        Malformed: the request is none of Alertmanager's or Grafana's.
    """
    try:
        request = _webhook.decode(body)
    except _UNREADABLE as error:
        raise Malformed(f"expected the JSON of an Alertmanager or Grafana webhook: {_reason(error)}") from error
    if request.version not in ("1", "4"):
        raise Malformed("expected version 4 (Alertmanager) or 1 (Grafana)")
    if len(request.alerts) > MAX_ALERTS:
        raise Malformed(f"{len(request.alerts)} alerts: expected {MAX_ALERTS} at most. Set max_alerts at the server")
    return _each(request.alerts, _of_posted)


def listed(body: bytes, source: AlertSource) -> tuple[list[Incoming], int]:
    """The alerts that `GET /api/v2/alerts` answers with, and how many more could not be read.

    Raises:
        Malformed: it is no such answer.
    """
    try:
        alerts = _raws.decode(body)
    except _UNREADABLE as error:
        raise Malformed(f"expected a JSON list of alerts: {_reason(error)}") from error
    if len(alerts) > MAX_ALERTS:
        raise Malformed(f"{len(alerts)} alerts about one run: expected {MAX_ALERTS} at most")
    return _each(alerts, lambda raw: _of_listed(raw, source))


def silences(body: bytes) -> list[Silence]:
    """The silences that hold now, of what `GET /api/v2/silences` answers with.

    Raises:
        Malformed: it is no such answer. Not one is left out: a silence that is not understood must not be forgotten.
    """
    try:
        return [silence for silence in _silences.decode(body) if silence.active]
    except _UNREADABLE as error:
        raise Malformed(f"expected a JSON list of silences: {_reason(error)}") from error


def _each(raws: list[Raw], read: Callable[[Raw], Incoming]) -> tuple[list[Incoming], int]:
    alerts: list[Incoming] = []
    unreadable = 0
    for raw in raws:
        try:
            alerts.append(read(raw))
        except _UNREADABLE:
            unreadable += 1
    return alerts, unreadable


def _of_posted(raw: Raw) -> Incoming:
    alert = _posted.decode(raw)
    return _incoming("webhook", alert, alert.status)


def _of_listed(raw: Raw, source: AlertSource) -> Incoming:
    alert = _listed.decode(raw)
    status = alert.status
    suppressed = status.state == "suppressed" or status.silenced_by or status.inhibited_by
    return _incoming(source, alert, "suppressed" if suppressed else "firing")


def _incoming(
    source: AlertSource, alert: _Posted | _Listed, state: Literal["firing", "resolved", "suppressed"]
) -> Incoming:
    labels = alert.labels
    return Incoming(
        source=source,
        name=labels.alertname,
        rule=labels.rule,
        run=labels.run,
        run_id=labels.run_id,
        severity=labels.severity,
        purpose=labels.purpose,
        fingerprint=alert.fingerprint,
        starts_at=alert.starts_at.timestamp(),
        state=state,
        value=_number(alert.annotations.value),
        real=labels.alertname not in (*_GRAFANA_STATES, *_TESTS) and not alert.annotations.grafana_state_reason,
    )


def _number(text: str) -> float | None:
    """Prometheus writes +Inf. NaN says nothing."""
    try:
        value = float(text[:32])
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _reason(error: BaseException) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
