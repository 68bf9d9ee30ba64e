"""What to tell the user of settings that are each right, and together open a run to others or have no effect."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from trimtab import plugins, tokens
from trimtab.settings import Config

_SERVED = ("host", "port", "metrics_token_file", "tls_certificate_file")
_SCRAPED = ("targets", "linger")
_SNAPSHOTS = ("snapshot_directory", "snapshot_gib", "snapshot_rng")


def notices(settings: Mapping[str, Any], spoken: Collection[str]) -> Iterator[str]:
    """Sentences about the settings that somebody gave, validated.

    `spoken` are those that are not from the environment, which may be meant for all runs of a machine.
    """
    backends = settings.get("backends", Config(run="").backends)
    yield from _open_to_others(settings, backends)
    yield from _served_by_nobody(settings, backends, spoken)
    yield from _without_alerts(settings, spoken)
    for name in ("grafana_token_file", "grafana_ca_file"):
        if name in spoken and "grafana" not in settings:
            yield f"{name} without grafana: it is not read. Set grafana to the server's address, or leave that out."
    idle = ", ".join(name for name in _SNAPSHOTS if name in spoken)
    if idle and not settings.get("act") and "replay" not in settings:
        yield f"{idle} without act: nothing is adjusted, so no snapshot is taken. Set act, or leave that out."


def _open_to_others(settings: Mapping[str, Any], backends: Collection[object]) -> Iterator[str]:
    """What others than the users of this machine may read, or read on the way."""
    host = settings.get("host")
    if host is None:
        return
    if plugins.SERVES in backends and "metrics_token_file" not in settings and (text := tokens.warning_of_open(host)):
        yield text
    if "tls_certificate_file" not in settings:
        served = [name for name in ("metrics_token_file", "webhook_token_file") if name in settings]
        yield from (text for name in served if (text := tokens.warning_of_served(name, host)))


def _served_by_nobody(
    settings: Mapping[str, Any], backends: Collection[object], spoken: Collection[str]
) -> Iterator[str]:
    """Settings of a server that is not there. A backend that is given as an object may be one."""
    if plugins.SERVES in backends or not all(isinstance(backend, str) for backend in backends):
        return
    idle = ", ".join([name for name in _SERVED if name in settings] + [name for name in _SCRAPED if name in spoken])
    if idle:
        yield f"{idle} without the backend prometheus: there is no /metrics. Add it to backends, or leave that out."


def _without_alerts(settings: Mapping[str, Any], spoken: Collection[str]) -> Iterator[str]:
    """Settings about alerts to which none can come."""
    is_taken_in = "alerts" in settings or "webhook_token_file" in settings
    if settings.get("act") == "alerts" and not is_taken_in and "replay" not in settings:
        yield (
            "act='alerts' without alerts or webhook_token_file: no alert can come in, so nothing is adjusted. Set "
            "alerts to the address of an Alertmanager or a Grafana, or webhook_token_file to the file of a token."
        )
    if "alerts" in settings:
        return
    for name in ("alerts_token_file", "alerts_ca_file"):
        if name in settings:
            yield f"{name} without alerts: no server is asked, so it is not read. Set alerts to the server's address."
    if "alerts_every" in spoken:
        yield "alerts_every without alerts: no server is asked. Set alerts to the server's address, or leave that out."
