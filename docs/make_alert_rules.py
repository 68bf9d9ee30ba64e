"""Writes the alert rules of deploy/ from the catalog: `python docs/make_alert_rules.py`. A test checks that they are
current."""

from pathlib import Path

from trimtab_dashboards import grafana_rules, prometheus_rules

DEPLOY = Path(__file__).parents[1] / "deploy"


def pages() -> dict[Path, str]:
    """Every file and what it holds."""
    prometheus, grafana = DEPLOY / "prometheus", DEPLOY / "grafana" / "provisioning" / "alerting"
    return {
        **{prometheus / name: text for name, text in prometheus_rules.files().items()},
        **{grafana / name: text for name, text in grafana_rules.files().items()},
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
