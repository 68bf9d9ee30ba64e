import re
import sys
from collections import Counter
from datetime import timedelta
from types import ModuleType

import pytest
from torch.distributed import TCPStore

from trimtab import discovery, names


@pytest.mark.parametrize(
    ("given", "stem"), [("train", "train"), ("my model (2)", "my-model-2"), ("<lambda>", "lambda")]
)
def test_fresh_name_is_valid_and_says_what_and_when(given, stem):
    name = names.fresh(given)
    assert names.is_valid(name)
    assert re.fullmatch(re.escape(stem) + r"-\d{8}T\d{6}Z-[0-9a-f]{4}", name)


@pytest.mark.parametrize("given", ["", "...", "///", "x" * 500, "日本"])
def test_fresh_name_is_valid_whatever_it_is_made_from(given):
    assert names.is_valid(names.fresh(given))


def test_fresh_names_do_not_repeat():
    assert len({names.fresh("a") for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("argv0", "name"), [("/x/train.py", "train"), ("/x/pkg/__main__.py", "pkg"), ("", "python"), ("-c", "python")]
)
def test_script_is_named_by_its_file(monkeypatch, argv0, name):
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    monkeypatch.setattr(sys, "argv", [argv0])
    assert names.of_script() == name


@pytest.mark.parametrize(("session", "name"), [("/x/Fit digits.ipynb", "Fit digits"), ("", "notebook")])
def test_notebook_is_named_by_its_file(monkeypatch, session, name):
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    monkeypatch.setattr(sys, "argv", ["/x/site-packages/ipykernel_launcher.py"])
    monkeypatch.setenv("JPY_SESSION_NAME", session)
    assert names.of_script() == name


def test_module_is_named_by_its_last_part(monkeypatch):
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    for spec, name in (("package.train", "train"), ("package.__main__", "package")):
        main.__spec__ = type("Spec", (), {"name": spec})
        assert names.of_script() == name


def under_torchrun(port):
    return {
        "WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def test_ranks_of_torchrun_agree_on_the_first_name(monkeypatch):
    agent = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=10))
    chosen = []
    for mine in ("first", "second"):
        monkeypatch.setattr(names, "_runs_started", iter([0]))  # each rank is a process of its own
        chosen.append(names.agree(mine, under_torchrun(agent.port)))
    assert chosen == [("first", None), ("first", None)]


def test_second_run_of_a_job_gets_a_name_of_its_own():
    agent = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=10))
    assert names.agree("first", under_torchrun(agent.port)) == ("first", None)
    assert names.agree("second", under_torchrun(agent.port)) == ("second", None)


def test_ranks_of_torchrun_have_one_id_for_each_run(monkeypatch):
    agent = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=10))
    environ = under_torchrun(agent.port)
    given = []
    for _ in range(2):
        monkeypatch.setattr(names, "_ids_given", Counter())  # each rank is a process of its own
        given.append([names.new_id(run, environ) for run in ("a", "b", "a")])
    assert given[0] == given[1]
    monkeypatch.setattr(names, "_ids_given", Counter())
    started_again = names.new_id("a", {**environ, "TORCHELASTIC_RESTART_COUNT": "1"})
    monkeypatch.setattr(names, "_ids_given", Counter())
    with_another_rank = names.new_id("a", {**environ, "WORLD_SIZE": "3"})  # which torchrun does not count
    assert len({*given[0], started_again, with_another_rank}) == 5


@pytest.mark.parametrize("environ", [{}, {"WORLD_SIZE": "2"}])
def test_rank_that_can_ask_no_other_has_an_id_of_its_own(monkeypatch, environ):
    monkeypatch.setattr(names, "_ids_given", Counter())
    first = names.new_id("a", environ)
    monkeypatch.setattr(names, "_ids_given", Counter())
    assert names.new_id("a", environ) != first


@pytest.mark.parametrize(
    "environ", [{"WORLD_SIZE": "2"}, {"OMPI_COMM_WORLD_SIZE": "4"}, {"SLURM_NTASKS": "8", "SLURM_STEP_ID": "0"}]
)
def test_ranks_without_a_store_are_told_to_set_the_name(environ):
    name, notice = names.agree("mine", environ)
    assert name == "mine"
    assert "TRIMTAB_RUN" in notice


def test_single_process_needs_no_agreement():
    assert names.agree("mine", {"WORLD_SIZE": "1", "SLURM_NTASKS": "8"}) == ("mine", None)


def test_name_of_the_folder_for_prometheus_is_not_a_runs():
    assert discovery.FOLDER in names.RESERVED
    assert not names.is_valid(discovery.FOLDER)


def test_directory_and_zip_file_that_are_run_have_names_of_their_own(monkeypatch):
    main = ModuleType("__main__")
    main.__spec__ = type("Spec", (), {"name": "__main__"})
    monkeypatch.setitem(sys.modules, "__main__", main)
    for given, name in (("/x/application", "application"), ("/x/packed.zip", "packed")):
        monkeypatch.setattr(sys, "argv", [given])
        assert names.of_script() == name
