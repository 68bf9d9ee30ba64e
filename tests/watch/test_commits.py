"""The commit of a run: as git has it, and nothing else that lies above the working directory."""

import os

import pytest

from trimtab.commits import commit

HASH = "0123456789abcdef0123456789abcdef01234567"
SECRET = "s3cr3t-metrics-token-of-somebody"


@pytest.fixture
def repository(tmp_path):
    (tmp_path / ".git" / "refs" / "heads").mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    return tmp_path


def test_commit_is_the_one_that_is_checked_out_here_or_above(repository):
    (repository / ".git" / "refs" / "heads" / "main").write_text(f"{HASH}\n")
    below = repository / "a" / "b"
    below.mkdir(parents=True)
    assert commit(below) == HASH


def test_commit_of_a_detached_head(repository):
    (repository / ".git" / "HEAD").write_text(f"{HASH}\n")
    assert commit(repository) == HASH


def test_commit_of_a_packed_reference(repository):
    (repository / ".git" / "packed-refs").write_text(
        f"# pack-refs\n{'f' * 40} refs/heads/other\n{HASH} refs/heads/main\n"
    )
    assert commit(repository) == HASH


def test_commit_of_a_worktree(repository, tmp_path):
    (repository / ".git" / "refs" / "heads" / "main").write_text(f"{HASH}\n")
    own, tree = repository / ".git" / "worktrees" / "tree", tmp_path / "tree"
    own.mkdir(parents=True)
    tree.mkdir()
    (own / "HEAD").write_text("ref: refs/heads/main\n")
    (own / "commondir").write_text("../..\n")
    (tree / ".git").write_text(f"gitdir: {own}\n")
    assert commit(tree) == HASH


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"ref: refs/heads/unborn\n", b"ref: refs/heads/a\0b\n"])
def test_commit_that_cannot_be_told_is_empty(tmp_path, content):
    if content is not None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "HEAD").write_bytes(content)
    assert commit(tmp_path) == ""


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    return path


def test_reference_to_a_file_elsewhere_is_not_read(repository, secret):
    secret.write_text(HASH)  # some tokens look like one
    for reference in (f"{secret}", "refs/../../token", "../token", "refs/heads/../../../token"):
        (repository / ".git" / "HEAD").write_text(f"ref: {reference}\n")
        assert commit(repository) == ""


def test_link_to_a_file_elsewhere_is_not_followed(repository, secret):
    secret.write_text(HASH)
    (repository / ".git" / "refs" / "heads" / "main").symlink_to(secret)
    assert commit(repository) == ""


@pytest.mark.parametrize("place", ["HEAD", "refs/heads/main", "packed-refs"])
def test_what_is_no_hash_is_not_told(repository, place):
    (repository / ".git" / place).write_text(f"{SECRET} refs/heads/main\n")
    assert commit(repository) == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes: run on Linux or macOS")
def test_pipe_is_not_waited_for(repository):
    (repository / ".git" / "HEAD").unlink()
    os.mkfifo(repository / ".git" / "HEAD")
    assert commit(repository) == ""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs files of another user: run as root")
def test_repository_of_another_user_is_none(repository):
    (repository / ".git" / "HEAD").write_text(HASH)
    assert commit(repository) == HASH
    os.chown(repository / ".git", 65534, 65534)
    assert commit(repository) == ""
