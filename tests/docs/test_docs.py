"""What the documentation shows is run; what is made from the catalog is current."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs" / "rules" / "README.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES_OF_OTHER_TESTS = ("backends.md",)  # tests/backends/test_third_party.py builds a wheel from it
COMMANDS_OF_OTHER_TESTS = ("make", "pip", ".")  # CI runs the first; pip needs an index; `.` is the shell's
DIVERGES = "examples/diverges.py"  # tests/cli/test_examples.py runs the line with it


def blocks(page, language):
    return [body for kind, body in BLOCK.findall(page.read_text()) if kind == language]


SCRIPTS = [page for page in PAGES if blocks(page, "python") and page.name not in PAGES_OF_OTHER_TESTS]


@pytest.mark.parametrize("page", SCRIPTS, ids=lambda page: page.name)
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page, "python")))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_of_the_readme_run_in_order(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "examples" / "digits.py", tmp_path / "train.py")
    for line in "".join(blocks(ROOT / "README.md", "console")).splitlines():
        if not line.startswith("$ ") or line.split()[1] in COMMANDS_OF_OTHER_TESTS or DIVERGES in line:
            continue
        command = line[2:].split("#")[0].replace("--epochs 15", "--epochs 1")
        program, *arguments = shlex.split(command)
        expanded = [str(p) for a in arguments for p in (sorted(tmp_path.glob(a)) if "*" in a else [a])]
        done = subprocess.run([sys.executable, "-m", program, *expanded], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_configuration_shows_settings_that_exist(tmp_path):
    from trimtab import config

    (example,) = blocks(ROOT / "docs" / "configuration.md", "toml")
    path = tmp_path / "trimtab.toml"
    path.write_text(example)
    assert config.check(config=path, environ={})


def test_table_of_metrics_is_current():
    made = runpy.run_path(str(ROOT / "docs" / "make_metrics.py"))
    assert made["PAGE"].read_text() == made["page"](), "run: python docs/make_metrics.py"


def test_ladders_of_the_policies_are_current(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    made = runpy.run_path(str(ROOT / "docs" / "make_policies.py"))
    assert made["PAGE"].read_text() == made["page"](), "run: python docs/make_policies.py"


def test_policies_shown_in_toml_can_be_used(tmp_path):
    from trimtab import config
    from trimtab.steering.assembly import rules_and_policies

    (example,) = blocks(ROOT / "docs" / "policies.md", "toml")
    path = tmp_path / "trimtab.toml"
    path.write_text(example)
    found = rules_and_policies(config.resolve(config=path, environ={}, run="test"))[1]
    assert [policy.name for policy in found][:2] == ["loss_spike", "GpuHot"]


def test_links_of_a_page_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_of_rules_are_current(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    made = runpy.run_path(str(ROOT / "docs" / "make_rules.py"))
    found = {path.name: path.read_text() for path in made["FOLDER"].glob("*.md")}
    assert found == made["pages"](), "run: python docs/make_rules.py"


def test_rules_show_a_table_that_can_be_read():
    from trimtab.rules.rule import resolve

    (example,) = blocks(ROOT / "docs" / "rules" / "README.md", "toml")
    shown = msgspec.toml.decode(example)["rules"]
    assert {rule["name"] for rule in shown} <= {rule.name for rule in resolve(shown)}
