"""Makes the rules and the dashboards for Kubernetes from the files that ship: `python deploy/make_kubernetes.py`.

A PrometheusRule holds what a rule file of Prometheus holds; a ConfigMap with the label `grafana_dashboard` is what the
sidecar of Grafana's Helm chart picks up, one for each dashboard, since a ConfigMap ends at 1 MiB.
"""

from __future__ import annotations

from pathlib import Path

DEPLOY = Path(__file__).resolve().parent
FOLDER = DEPLOY / "kubernetes"
DASHBOARDS = DEPLOY.parent / "dashboards" / "trimtab_dashboards" / "json"
HEAD = "# Made by `python deploy/make_kubernetes.py`. Do not edit: a test compares.\n"
APPLY = "# Too large for the annotation of a plain apply: kubectl apply --server-side --filename=deploy/kubernetes/\n"
METADATA = """\
metadata:
  name: {name}
  labels:
    app.kubernetes.io/name: trimtab
"""


def files() -> dict[str, str]:
    """The manifests by their names."""
    return {"prometheusrule.yaml": rules(), "dashboards.yaml": HEAD + APPLY + "---\n".join(map(dashboard, shipped()))}


def rules() -> str:
    """One PrometheusRule with the groups of every rule file."""
    head = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n" + METADATA.format(name="trimtab")
    groups = "".join(indented(groups_of(path), 2) for path in sorted((DEPLOY / "prometheus").glob("*.rules.yml")))
    return f"{HEAD}{head}spec:\n  groups:\n{groups}"


def shipped() -> list[Path]:
    return sorted(DASHBOARDS.glob("*.json"))


def dashboard(path: Path) -> str:
    """One ConfigMap that holds one dashboard."""
    head = "apiVersion: v1\nkind: ConfigMap\n" + METADATA.format(name=f"dashboard-{path.stem}")
    return f'{head}    grafana_dashboard: "1"\ndata:\n  {path.name}: |\n{indented(path.read_text(encoding="utf-8"), 4)}'


def groups_of(path: Path) -> str:
    """What follows `groups:` in a rule file, as it stands there."""
    return path.read_text(encoding="utf-8").partition("\ngroups:\n")[2]


def indented(text: str, spaces: int) -> str:
    return "".join(f"{' ' * spaces}{line}" if line.strip() else line for line in text.splitlines(keepends=True))


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
