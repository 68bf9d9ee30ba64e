"""The links at Prometheus: reached, scraping the run, often enough, with our rules, and telling an Alertmanager."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trimtab.catalog import CLOCK_SKEW_S, LEVEL_WINDOW_S, RUN_INFO
from trimtab.discovery import Target
from trimtab.doctor.finding import Finding, ok, skipped, wrong
from trimtab.doctor.http import Http, Unanswered

OLDEST = (2, 42)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def check(url: str, target: Target | None, alerts: Sequence[str]) -> Iterator[Finding]:
    """Every link at the Prometheus of `url`, which should hold all `alerts` by name."""
    server = Http(url)
    try:
        version = str(server.json("/api/v1/status/buildinfo")["data"]["version"])
        yield _version(url, version)
        active = server.json("/api/v1/targets", state="active")["data"]["activeTargets"]
        groups = server.json("/api/v1/rules")["data"]["groups"]
        known = server.json("/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
        yield _scraping(active, target)
        found = _of(target, active) if target is not None else None
        if target is not None and found is not None and found["health"] == "up":
            asked = f'{RUN_INFO.name}{{run_id="{target.run_id}"}}'
            yield _labelled(server.json("/api/v1/query", query=asked)["data"]["result"], found["labels"], target)
        if target is not None and target.host == platform.node():
            yield _clock(time.time() - float(server.json("/api/v1/query", query="time()")["data"]["result"][1]))
        yield from (_rules(groups, alerts), _window(active, groups, target, alerts))
        yield _alerting([str(each["url"]) for each in known], _sendings(server))
    except Unanswered as error:
        advice = "Start one: make stack. One that runs elsewhere: --prometheus URL."
        if error.status in (401, 403):
            advice = "It wants a login. Ask it from where none is needed."
        elif error.untrusted:
            advice = "Name the certificate of its authority to this command: SSL_CERT_FILE."
        yield wrong("prometheus", f"{error}.", advice)
    except (LookupError, TypeError, AttributeError, ValueError):
        yield wrong("prometheus", f"{url} answers, but not as Prometheus does.", "Give its address: --prometheus URL.")


def seconds(duration: str) -> float:
    """`1m30s` as Prometheus writes durations, in seconds."""
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h|d)", duration))


def _version(url: str, version: str) -> Finding:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        return wrong("prometheus", f"{url} is Prometheus {version}.", "The rules need 2.42 or later. Upgrade it.")
    return ok("prometheus", f"{url}, version {version}")


def _of(target: Target, active: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    for each in active:
        labels = each.get("discoveredLabels", {})
        found = labels.get("__meta_trimtab_run_id"), labels.get("__meta_trimtab_rank")
        if found == (target.run_id, str(target.rank)) or each["scrapeUrl"] == target.url:
            return each
    return None


def _scraping(active: Sequence[Mapping[str, Any]], target: Target | None) -> Finding:
    if target is None:
        return skipped("scraping", "there is no run to look for.")
    found = _of(target, active)
    if found is None:
        advice = "Add the directory of targets to `file_sd_configs`, as in deploy/prometheus/prometheus.yml; wait 15 s."
        return wrong("scraping", f"Prometheus knows nothing of {target.run} at {target.address}.", advice)
    if found["health"] == "up":
        return ok("scraping", f"{target.run} every {found.get('scrapeInterval', '?')}, last at {found['lastScrape']}")
    if found["health"] == "unknown":
        return wrong(
            "scraping", f"{target.run} was found, and not scraped yet.", "Wait one scrape interval, and ask again."
        )
    return wrong("scraping", f"{target.url}: {found['lastError']}.", _why_down(str(found["lastError"])))


def _labelled(series: Sequence[Mapping[str, Any]], scraped: Mapping[str, str], target: Target) -> Finding:
    """Alerts and panels join series by the target's labels and the run's own; neither may have taken the other's."""
    wanted = {"job": scraped["job"], "instance": scraped["instance"], "run": target.run, "rank": str(target.rank)}
    found = [{name: each["metric"].get(name, "") for name in wanted} for each in series]
    if wanted in found:
        return ok("labels", ", ".join(f"{name} {value}" for name, value in wanted.items()))
    if not found:
        return wrong("labels", f"{RUN_INFO.name} of the run is not stored.", "Does `metric_relabel_configs` drop it?")
    nearest = max(found, key=lambda each: sum(each[name] == wanted[name] for name in wanted))
    (name, *_) = [name for name in wanted if nearest[name] != wanted[name]]
    advice = (
        "Take `honor_labels: true` out of its scrape config."
        if name == "job"
        else (f"Set no label {name!r} by discovery or relabelling: the run names itself.")
    )
    text = f"{name} of the run's series is {nearest[name]!r}, not {wanted[name]!r}: alerts that join by it never fire."
    return wrong("labels", text, advice)


def _clock(ahead_s: float) -> Finding:
    """Alerts bear the time of Prometheus; the run has that of this machine, whose clock is so far ahead."""
    if abs(ahead_s) <= CLOCK_SKEW_S:
        return ok("clock", "this machine and Prometheus have the same time")
    there, outcome = ("ahead of", "too_old") if ahead_s > 0 else ("behind", "in_future")
    text = f"the clock here is {abs(ahead_s):.0f} s {there} that of Prometheus: the run refuses alerts ({outcome})."
    return wrong("clock", text, f"Set both by NTP: {CLOCK_SKEW_S:g} s are allowed.")


def _why_down(error: str) -> str:
    if "401" in error:
        return "Give Prometheus the run's token: `authorization: {credentials_file: ...}` in its scrape config."
    if "x509" in error or "tls" in error.lower():
        return "Give Prometheus the certificate's authority: `tls_config: {ca_file: ...}` in its scrape config."
    return (
        "From where Prometheus runs, that address must lead to the run: give TRIMTAB_HOST an address of this machine, "
        "or let the container use the host's network."
    )


def _rules(groups: Sequence[Mapping[str, Any]], alerts: Sequence[str]) -> Finding:
    found = {rule["name"]: rule for group in groups for rule in group["rules"]}
    missing = [name for name in alerts if name not in found]
    advice = (
        "Add deploy/prometheus/trimtab-*.rules.yml to `rule_files` and reload Prometheus. Or: trimtab rules export."
    )
    if missing:
        some = ", ".join(missing[:3])
        return wrong("rules", f"{len(missing)} of {len(alerts)} alerts are not loaded: {some} ...", advice)
    for name in alerts:
        if found[name].get("health") == "err":
            return wrong("rules", f"{name}: {found[name].get('lastError')}.", advice)
    return ok("rules", f"all {len(alerts)} alerts are loaded")


def _window(
    active: Sequence[Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
    target: Target | None,
    alerts: Sequence[str],
) -> Finding:
    """A level shows the worst of the last minute, so two scrapes and an evaluation must fit in."""
    scraped = _of(target, active) if target is not None else None
    if scraped is None or "scrapeInterval" not in scraped:
        return skipped("window", "the scrape interval is known once a run is scraped.")
    scrape_s = seconds(str(scraped["scrapeInterval"]))
    names = set(alerts)
    evaluation_s = max(
        (float(group["interval"]) for group in groups if names & {rule["name"] for rule in group["rules"]}), default=0.0
    )
    text = (
        f"levels look back {LEVEL_WINDOW_S:g} s; scraped every {scrape_s:g} s, rules evaluated every {evaluation_s:g} s"
    )
    if 2 * scrape_s > LEVEL_WINDOW_S:
        return wrong("window", f"{text}.", f"Set `scrape_interval` to {LEVEL_WINDOW_S / 2:g}s or less, better 5s.")
    if scrape_s + evaluation_s > LEVEL_WINDOW_S:
        return wrong("window", f"{text}.", "Set `evaluation_interval` to the scrape interval.")
    return ok("window", text)


def _sendings(server: Http) -> Mapping[str, tuple[float, float]]:
    """How many alerts were sent to each Alertmanager, and how many of those failed, as Prometheus says of itself."""
    try:
        page = server.text("/metrics")
    except Unanswered:  # what stands in for a Prometheus need not have it
        return {}
    counts: dict[str, list[float]] = {}
    for what, url, count in re.findall(
        r'^prometheus_notifications_(sent|errors)_total\{alertmanager="([^"]+)"\} (\S+)$', page, re.M
    ):
        counts.setdefault(url, [0.0, 0.0])[what == "errors"] = float(count)
    return {url: (sent, failed) for url, (sent, failed) in counts.items()}


def _alerting(known: Sequence[str], sendings: Mapping[str, tuple[float, float]]) -> Finding:
    if not known:
        advice = "Add `alerting: {alertmanagers: ...}`, as in deploy/prometheus/prometheus.yml."
        return wrong("alerting", "Prometheus sends its alerts to nobody.", advice)
    told = ", ".join(known)
    counts = [sendings.get(url, (0.0, 0.0)) for url in known]
    if all(sent and failed >= sent for sent, failed in counts):
        advice = "Is that its address, with `scheme`, `path_prefix` and login? Prometheus' log says what came back."
        return wrong("alerting", f"No alert that Prometheus sent to {told} has got there.", advice)
    return ok("alerting", f"Prometheus sends its alerts to {told}")
