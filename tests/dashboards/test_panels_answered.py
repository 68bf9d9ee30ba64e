"""Every panel, asked of a real Prometheus that scrapes a real training run and evaluates the rules that ship."""

import loop_panels
import pytest
from panel_queries import annotated, asked, choices, labels_of

import trimtab.health

pytestmark = pytest.mark.servers


def test_every_query_is_answered_with_data_after_a_demo_run(tmp_path, program, monkeypatch):
    program("prometheus")
    monkeypatch.setattr(trimtab.health, "INTERVAL_S", 0.5)
    answers = loop_panels.after_a_demo(tmp_path)
    assert "\n".join(str(query) for query in [*asked(), *annotated(), *choices()] if query not in answers) == ""
    for query, found in answers.items():
        assert query.kind != "table" or "__name__" not in set().union(*found), f"{query}: Grafana joins no such columns"
        told = set().union(*found)
        is_zero = any("none" in metric.values() for metric in found)  # of a counter of what did not happen
        assert is_zero or labels_of(query.legend) <= told | {"exported_job"}, query
