"""`trimtab rules` as a program."""

from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize(
    ("kind", "folder"), [("prometheus", DEPLOY / "prometheus"), ("grafana", DEPLOY / "grafana/provisioning/alerting")]
)
def test_export_writes_what_is_committed(desk, kind, folder):
    done = desk.trimtab("rules", "export", "--format", kind, "-o", "out/rules")
    written = {Path(line) for line in done.stdout.splitlines()}
    assert {path.name for path in written} >= {"prometheus": {"trimtab-acting.rules.yml"}}.get(kind, set())
    assert {path.name: (desk.directory / path).read_text() for path in written} == {
        path.name: path.read_text() for path in folder.glob("trimtab-*.yml")
    }


def test_export_without_a_directory_prints_with_the_runbooks_and_the_datasource_asked_for(desk):
    asked = ("--docs", "https://wiki/trimtab/", "--datasource", "mimir")
    done = desk.trimtab("rules", "export", "--format", "grafana", *asked)
    assert 'runbook_url: "https://wiki/trimtab/rules/loss_spike.md"' in done.stdout
    assert "datasourceUid: mimir\n" in done.stdout
    assert "trimtab-prometheus" not in done.stdout


def test_export_refuses_a_datasource_for_prometheus(desk):
    done = desk.trimtab("rules", "export", "--format", "prometheus", "--datasource", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--datasource is for --format grafana" in done.stderr


def test_export_to_where_nothing_can_be_written_gets_one_sentence(desk):
    desk.write("taken", "")
    done = desk.trimtab("rules", "export", "--format", "prometheus", "-o", "taken")
    assert done.returncode == 2
    assert done.stderr.startswith("trimtab: -o taken: trimtab-acting.rules.yml cannot be written (")
