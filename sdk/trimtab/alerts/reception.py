"""All that takes alerts in for one run, put together: rank 0 asks and is posted to, for every rank."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from trimtab import tokens
from trimtab.alerts import webhook
from trimtab.alerts.acceptance import Acceptance
from trimtab.alerts.client import Client
from trimtab.alerts.inbox import Inbox
from trimtab.alerts.pull import Poller
from trimtab.alerts.silences import Silences, expected_labels
from trimtab.guard import Guard
from trimtab.policies import Engine, Policy
from trimtab.policies.policy import ALERT
from trimtab.types import Act, Event, Intake, RunInfo, Severity

PUBLISH_INTERVAL_S = 1.0


@runtime_checkable
class Mounts(Protocol):
    """A backend that serves HTTP and can serve one more application beside its own."""

    def mount(self, path: str, application: webhook.Application, body_bytes: int) -> None:
        """Serve `application` under `path` from `start` on, with bodies of up to `body_bytes`."""
        ...


class Reception:
    """The alerts of one run, from the servers to the policies.

    Args:
        rules: severities of the rules that are judged, by name.
        emit: takes events, from any thread.
        step: the global step.

    Raises:
        ConfigError: a file of a token or of certificates that cannot be used.
    """

    def __init__(
        self,
        info: RunInfo,
        rules: Mapping[str, Severity],
        policies: Sequence[Policy],
        engine: Engine,
        silences: Silences,
        *,
        act: Act,
        guard: Guard,
        emit: Callable[[Event], None],
        say: Callable[[str, str], None],
        step: Callable[[], int],
    ) -> None:
        config = info.config
        known = [*rules, *(policy.on for policy in policies if policy.on.startswith(ALERT))]
        self._inbox = Inbox(info.run, info.run_id, known)
        self._emit = emit
        self._step = step
        self._published_at = 0.0
        self._lock = threading.RLock()  # of these three; SIGTERM may come while it is held
        self._later: threading.Timer | None = None
        self._over = False  # nothing is published any more
        self._publish_guarded = guard.wrap("alerts", self._publish)
        self._poller: Poller | None = None
        self.acceptance = Acceptance(self._inbox, silences, engine, rules, emit, act=act, decided=self._publish)
        self._application: webhook.Application | None = None
        if config.webhook_token_file is not None:
            token = tokens.read("webhook_token_file", config.webhook_token_file)
            self._application = webhook.application(self._inbox, token, self._publish_seldom)
        if config.alerts is not None:
            file = config.alerts_token_file
            token_of_server = None if file is None else tokens.read("alerts_token_file", file)
            warning = None if token_of_server is None else tokens.warning("alerts", config.alerts)
            if warning is not None:
                say("alerts token", warning)
            self._poller = Poller(
                Client(config.alerts, token_of_server, config.alerts_ca_file),
                self._inbox,
                silences,
                expected_labels(info.run, info.run_id, known),
                run=info.run,
                interval_s=config.alerts_every,
                guard=guard,
                say=say,
                published=self._publish,
            )

    @property
    def busy_seconds(self) -> float:
        """Processor time that asking has used."""
        return 0.0 if self._poller is None else self._poller.busy_seconds

    def mount(self, backends: Mapping[str, object]) -> str | None:
        """Have the webhook served by the backends that can; returns what to tell the user when none can."""
        if self._application is None:
            return None
        serving = [backend for backend in backends.values() if isinstance(backend, Mounts)]
        for backend in serving:
            backend.mount(webhook.PATH, self._application, webhook.MAX_BODY)
        if serving:
            return None
        return "webhook_token_file: no backend of this run serves HTTP, so no webhook is served. Add prometheus."

    def start(self) -> None:
        """The run begins: ask from now on."""
        if self._poller is not None:
            self._poller.start()

    def close(self) -> None:
        """The run ends: take nothing in any more."""
        self._inbox.close()
        if self._poller is not None:
            self._poller.close()
        with self._lock:
            if self._inbox.received or self._inbox.last_success:
                self._publish()
            self._over = True  # the record may end now, while the webhook is still served

    def _publish_seldom(self) -> None:
        """For the webhook: whoever holds its token cannot fill the record with more than a line a second.

        What comes within that second is told at its end, since nothing may come after it.
        """
        with self._lock:
            if self._over or self._later is not None:
                return
            wait_s = self._published_at + PUBLISH_INTERVAL_S - time.monotonic()
            if wait_s > 0:
                later = self._later = threading.Timer(wait_s, self._publish_guarded)
        if wait_s > 0:
            later.name, later.daemon = "trimtab-alerts-count", True
            later.start()
        else:
            self._publish()

    def _publish(self) -> None:
        with self._lock:
            if self._over:
                return
            self._published_at = time.monotonic()
            if self._later is not None:
                self._later.cancel()
                self._later = None
            heard = self._inbox.last_success
            if self._poller is not None:
                heard.setdefault(self._poller.source, 0.0)
            intake: dict[str, Any] = {"received": self._inbox.received, "last_success": heard}
            self._emit(Intake(ts=time.time(), step=self._step(), **intake))
