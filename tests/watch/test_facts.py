import os
from pathlib import Path

import pytest

from trimtab.facts import REMOVED, collect, rank_of, without_secrets


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        (["train.py", "--lr", "0.1"], ["train.py", "--lr", "0.1"]),
        (["--api-key=abc", "x"], [f"--api-key={REMOVED}", "x"]),
        (["--token", "abc", "x"], ["--token", REMOVED, "x"]),
        (["--wandb_api_key", "abc"], ["--wandb_api_key", REMOVED]),
        (["--tokenizer_name", "gpt2"], ["--tokenizer_name", "gpt2"]),
        (["--tokenizer-token", "abc"], ["--tokenizer-token", REMOVED]),
        (["--password", "--lr", "0.1"], ["--password", "--lr", "0.1"]),
        (["HF_TOKEN=abc"], [f"HF_TOKEN={REMOVED}"]),
        (["hub.Secret=a=b"], [f"hub.Secret={REMOVED}"]),
        (["https://sam:abc@host/data"], [f"https://{REMOVED}@host/data"]),
        (["--data", "s3://key:abc@host/x?y=1"], ["--data", f"s3://{REMOVED}@host/x?y=1"]),
        (["https://sam:p@ss@host/data"], [f"https://{REMOVED}@host/data"]),
        (["https://host/a?x=1&token=abc&y=2"], [f"https://host/a?x=1&token={REMOVED}&y=2"]),
        (["mysql://sam:abc@host/x?auth_plugin=y"], [f"mysql://{REMOVED}@host/x?auth_plugin={REMOVED}"]),
        (["--url=https://sam:abc@host/authors?x=1"], [f"--url=https://{REMOVED}@host/authors?x=1"]),
        (["--url", "https://host/?mail=a@b"], ["--url", "https://host/?mail=a@b"]),
        (["--aws_access_key", "abc"], ["--aws_access_key", REMOVED]),
        (["user@host:path"], ["user@host:path"]),
        (['--config={"api_key": "abc", "lr": 0.1}'], [f'--config={{"api_key": {REMOVED}, "lr": 0.1}}']),
        (['{"a": {"token": 5}, "lr": 1}'], [f'{{"a": {{"token": {REMOVED}}}, "lr": 1}}']),
        (["--header", "Authorization: Bearer abc"], ["--header", f"Authorization: {REMOVED}"]),
        (["--set=a=1,token=abc,b=2"], [f"--set=a=1,token={REMOVED},b=2"]),
        (["a=1 db_password='a b', x=1"], [f"a=1 db_password={REMOVED}, x=1"]),
        (["https://auth.example.com:8080/x"], ["https://auth.example.com:8080/x"]),
        (["/data/pass:/x", "optim:adam", "a.tokenizer=bert"], ["/data/pass:/x", "optim:adam", "a.tokenizer=bert"]),
        (["pass" * 30_000], ["pass" * 30_000]),
    ],
)
def test_values_of_secrets_are_removed_from_the_command_line(command, kept):
    assert without_secrets(command) == kept


def test_command_line_that_holds_other_objects_is_told_as_text(monkeypatch):
    monkeypatch.setattr("sys.executable", None)  # as where a program embeds Python
    monkeypatch.setattr("sys.argv", [Path("train.py"), "--lr", 0.1, "--token", "abc"])
    assert collect()["command"] == ["python", "train.py", "--lr", "0.1", "--token", REMOVED]


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        ({}, (0, 0, 1)),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, (3, 1, 8)),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}, (5, 1, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 0, 1)),  # a batch script, of which no step is run by srun
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, (2, 2, 4)),
        ({"RANK": "", "WORLD_SIZE": "x"}, (0, 0, 1)),
        ({"RANK": "²", "LOCAL_RANK": "²", "WORLD_SIZE": "٣"}, (0, 0, 1)),
        ({"NODE_RANK": "0", "LOCAL_RANK": "²"}, (0, 0, 1)),
        ({"RANK": "1"}, (0, 0, 1)),  # left in a shell
        ({"RANK": "4", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, (0, 0, 1)),
        ({"WORLD_SIZE": "4", "RANK": "0"}, (0, 0, 4)),
        ({"NODE_RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, (1, 1, 1)),  # started by Lightning
        ({"NODE_RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, (0, 0, 1)),  # which says not of how many a node
    ],
)
def test_ranks_are_those_of_the_launcher(environ, ranks):
    assert rank_of(environ) == ranks


def test_working_directory_that_is_gone_is_no_fact(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = collect({}, ["train.py"])
    assert (found["directory"], found["commit"]) == ("", "")


def test_facts_hold_what_the_log_promises():
    found = collect({"SLURM_JOB_ID": "77"}, ["train.py", "--token", "abc"])
    assert {
        "trimtab",
        "torch",
        "python",
        "command",
        "host",
        "pid",
        "owner",
        "job",
        "commit",
        "framework",
    } <= found.keys()
    assert found["job"] == "77"
    assert found["pid"] == os.getpid()
    assert found["command"][1:] == ["train.py", "--token", REMOVED]


def test_machine_without_a_user_entry_has_no_owner(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert collect({}, [])["owner"] == ""
