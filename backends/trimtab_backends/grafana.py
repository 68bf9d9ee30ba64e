"""Annotations in Grafana: each adjustment as a mark, each firing rule or alert as a stretch of time.

They carry the tags `trimtab` and the run's name, by which the dashboards find them. Rank 0 writes for all ranks.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from trimtab.errors import BackendError, TrimtabError
from trimtab.guard import text_of
from trimtab.types import Adjustment, Alert

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from trimtab.types import Event, RunInfo
    from trimtab_dashboards.grafana_client import Grafana

TAG = "trimtab"
TIMEOUT_S = 2.0  # of one request: the end of a run waits for all backends together, and not long
AT_ONCE = 20  # annotations of one batch; more of them than that tell nothing more


class GrafanaBackend:
    """Writes to the Grafana of `config.grafana`, or to that given here. One request for each annotation.

    When Grafana is away, the annotations of that batch are lost and counted; the next batch tries again.
    """

    def __init__(self, *, url: str | None = None, token_file: Path | None = None) -> None:
        self.address: str | None = None
        self._url = url
        self._token_file = token_file
        self._grafana: Grafana | None = None
        self._run = ""
        self._firing: dict[tuple[str, str, str, int], str] = {}  # alerts that go on, to their annotation's id

    def start(self, run: RunInfo) -> None:
        """Read the token. Grafana itself is not asked: it may come later than the run.

        Raises:
            BackendError: no address is configured, or the token's file cannot be used.
        """
        from trimtab_dashboards.grafana_client import Grafana, read_token

        url = self._url or run.config.grafana
        if url is None:
            raise BackendError("backend 'grafana': no address. Give grafana=, or set TRIMTAB_GRAFANA.")
        try:
            token = read_token(self._token_file or run.config.grafana_token_file)
            grafana = Grafana(url, token, timeout_s=TIMEOUT_S, ca_file=run.config.grafana_ca_file)
        except TrimtabError as error:
            raise BackendError(f"backend 'grafana': {error}") from error
        self._run = run.run
        self.address = f"{grafana.url}/d/trimtab-run?var-run={run.run}"
        if run.rank == 0:
            self._grafana = grafana
        else:
            grafana.close()

    def write(self, events: Sequence[Event]) -> None:
        """Write what there is to annotate.

        Raises:
            GrafanaError: Grafana cannot be reached or refuses; what was left of this batch is lost.
        """
        telling = [event for event in events if isinstance(event, (Adjustment, Alert))]
        for event in telling[:AT_ONCE]:
            self._annotate(event)
        if len(telling) > AT_ONCE:
            left = len(telling) - AT_ONCE
            self._post(telling[-1], f"and {left} more adjustments and alerts: see the log", [])

    def close(self) -> None:
        if self._grafana is not None:
            self._grafana.close()
            self._grafana = None

    def _annotate(self, event: Adjustment | Alert) -> None:
        if isinstance(event, Adjustment):
            self._post(event, _told(event), ["adjustment", event.policy, event.outcome])
            return
        key = (event.source, event.rule, event.optimizer, event.episode)
        if event.state == "firing":
            name = f"{event.rule} fires" + ("" if event.source == "process" else f" ({event.source})")
            outcome = f": {event.outcome}" if event.outcome else ""
            id = self._post(event, f"{name}, episode {event.episode}{outcome}", ["alert", event.rule, event.severity])
            if id is not None:
                self._firing[key] = id
        elif (id := self._firing.pop(key, None)) is not None and self._grafana is not None:
            self._grafana.patch("annotations", id, body={"timeEnd": _milliseconds(event)})

    def _post(self, event: Event, text: str, tags: list[str]) -> str | None:
        """The id of the new annotation, where Grafana tells."""
        if self._grafana is None:
            return None
        body = {
            "time": _milliseconds(event),
            "tags": [TAG, self._run, *tags],
            "text": html.escape(f"{self._run}, step {event.step}: {text}"),  # Grafana shows it as HTML
        }
        answer = self._grafana.post("annotations", body=body)
        id = answer.get("id") if isinstance(answer, dict) else None
        return str(id) if isinstance(id, int) else None


def _milliseconds(event: Event) -> int:
    return int(event.ts * 1000)


def _told(event: Adjustment) -> str:
    """`scale_learning_rate applied (loss_diverged): learning_rate_scale 1 to 0.5. Reason.`"""
    why = f" ({event.rule})" if event.rule else ""
    changes = ", ".join(_changes(event.before, event.after))
    reason = f". {event.reason}" if event.reason else ""
    return f"{event.action} {event.outcome}{why}{': ' if changes else ''}{changes}{reason}"


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for setting in {**before, **after}:
        was = f"{_number(before[setting])} to " if before.get(setting) is not None else ""
        yield f"{setting} {was}{_number(after.get(setting))}"


def _number(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_number, value))
    return f"{value:.4g}" if isinstance(value, float) else text_of(value)
