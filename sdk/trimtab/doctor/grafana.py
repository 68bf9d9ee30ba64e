"""The links at Grafana: reached, the token accepted, a Prometheus as data source, the dashboards there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from trimtab.doctor.finding import Finding, ok, skipped, wrong
from trimtab.doctor.http import Http, Unanswered
from trimtab.errors import GrafanaError

TOKEN_VARIABLE, CA_VARIABLE = "TRIMTAB_GRAFANA_TOKEN_FILE", "TRIMTAB_GRAFANA_CA_FILE"


def check(
    url: str, token: str | None, dashboards: Mapping[str, str], certificates: Path | None = None
) -> Iterator[Finding]:
    """Every link at the Grafana of `url`, which should hold `dashboards`: uid to title."""
    server = Http(url, certificates=certificates)
    try:
        health = server.json("/api/health")
        yield ok("grafana", f"{url}, version {health.get('version', 'not told')}")
    except Unanswered as error:
        advice = "Start one: make stack. One that runs elsewhere: --grafana URL."
        trust = f"Name the certificate of its authority: {CA_VARIABLE}."
        yield wrong("grafana", f"{error}.", trust if error.untrusted else advice)
        return
    except AttributeError:
        yield wrong("grafana", f"{url} answers, but not as Grafana does.", "Give its address: --grafana URL.")
        return
    if token is None:
        advice = f"Write a service account's token into a file, chmod 600, and name it: {TOKEN_VARIABLE}."
        yield skipped("dashboards", "without a token Grafana tells nothing.", advice)
        return
    yield from _inside(url, token, dashboards, certificates)


def _inside(url: str, token: str, dashboards: Mapping[str, str], certificates: Path | None) -> Iterator[Finding]:
    from trimtab_dashboards.grafana_client import Grafana

    grafana = Grafana(url, token, ca_file=certificates)
    try:
        sources = [source for source in grafana.get("datasources") if source["type"] == "prometheus"]
        if sources:
            yield ok("datasource", ", ".join(str(source["name"]) for source in sources))
        else:
            advice = "Add one under Connections, or provision deploy/grafana/provisioning."
            yield wrong("datasource", "Grafana has no data source of type Prometheus.", advice)
        missing = [title for uid, title in dashboards.items() if grafana.find("dashboards", "uid", uid) is None]
        if missing:
            yield wrong("dashboards", f"missing: {', '.join(missing)}.", "Run: trimtab dashboards push")
        else:
            yield ok("dashboards", ", ".join(dashboards.values()))
    except GrafanaError as error:
        yield wrong(
            "token" if error.status in (401, 403) else "grafana", str(error), f"Name another: {TOKEN_VARIABLE}."
        )
    except (LookupError, TypeError):
        yield wrong("datasource", f"{url} answers, but not as Grafana does.", "Give its address: --grafana URL.")
    finally:
        grafana.close()
