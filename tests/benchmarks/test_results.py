from __future__ import annotations

from pathlib import Path

import pytest
from paired import Estimate
from results import BEGIN, END, MICROSECONDS, PERCENT, Figure, dump, judged, load_figures, table, write_readme


def test_bar_is_met_only_when_the_upper_end_is_under_it() -> None:
    assert judged("a", Estimate(0.004, 0.002, 0.0049), PERCENT, 0.005).met is True
    assert judged("a", Estimate(0.004, 0.002, 0.0051), PERCENT, 0.005).met is False
    assert judged("a", Estimate(0.004, 0.002, 0.0051), PERCENT).met is None


def test_table_has_the_interval_the_bar_and_the_notes() -> None:
    lines = table([judged("step", Estimate(5e-6, 4e-6, 6e-6), MICROSECONDS, 7e-6, note="on one thread")]).splitlines()
    assert "| step " in lines[2]
    assert "5.0 [4.0, 6.0] µs" in lines[2]
    assert "<= 7 µs" in lines[2]
    assert lines[-1] == "- step: on one thread"


def test_figures_survive_the_way_between_processes(tmp_path: Path) -> None:
    figures = [Figure("a", "1 ms", bar="<= 2 ms", met=True), Figure("b", "skipped", note="not installed")]
    dump(figures, tmp_path / "figures.json")
    assert load_figures(tmp_path / "figures.json") == figures


def test_readme_keeps_everything_but_the_table(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_readme([Figure("a", "1 ms")], "Quiet.", readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "| a " in text
    assert "old" not in text


def test_readme_without_marks_is_refused(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")
    with pytest.raises(ValueError, match="Put them back"):
        write_readme([], "", readme)
    assert readme.read_text() == "nothing here\n"
