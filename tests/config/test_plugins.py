import sys

import pytest

import trimtab_backends.jsonl
from trimtab import plugins
from trimtab.errors import BackendError, BackendUnavailable, ConfigError
from trimtab.types import Config

BACKEND = """
class FileBackend:
    def start(self, run): ...
    def write(self, events): ...
    def close(self): ...
"""


class QuietBackend:
    def start(self, run): ...
    def write(self, events): ...
    def close(self): ...


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Puts a distribution on the path that offers a backend, as an installer would leave it there."""
    monkeypatch.syspath_prepend(tmp_path)

    def offer(distribution, backend, source=BACKEND, extras=""):
        module = f"{distribution.replace('-', '_')}_backend"
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(source)
        metadata = tmp_path / f"{distribution.replace('-', '_')}-1.5.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        (metadata / "entry_points.txt").write_text(f"[trimtab.backends]\n{backend} = {module}:FileBackend{extras}\n")
        return module

    return offer


def load(*backends, requested=True):
    return plugins.load(Config(run="r", backends=backends, backends_requested=requested))


def test_backend_of_another_distribution_is_found(offer):
    module = offer("trimtab-file", "file")
    assert module not in sys.modules
    backends, notices = load("file")
    assert type(backends["file"]).__module__ == module
    assert notices == []


def test_unknown_backend_names_the_nearest(offer):
    offer("trimtab-file", "file")
    with pytest.raises(ConfigError, match=r"backend 'flie' is not installed. Did you mean 'file'\?"):
        load("flie")


def test_built_in_name_cannot_be_taken(offer):
    module = offer("evil", "jsonl")
    backends, _ = load("jsonl", requested=False)
    assert all(type(backend).__module__ != module for backend in backends.values())
    (row,) = [row for row in plugins.installed() if row.distribution == "evil"]
    assert (row.name, row.version, row.problem) == ("jsonl", "1.5", "the name 'jsonl' belongs to trimtab")


def test_missing_package_is_named_with_the_command(offer):
    offer("trimtab-file", "file", "import no_such_package\n", extras=" [s3]")
    with pytest.raises(BackendUnavailable) as caught:
        load("file")
    assert str(caught.value) == (
        "backend 'file' needs the package 'no_such_package', which is missing. Run: pip install 'trimtab-file[s3]'"
    )


def test_unusable_backend_of_the_default_set_is_skipped_with_a_sentence(offer):
    offer("trimtab-file", "file", "raise RuntimeError('broken on import')\n")
    backends, (notice,) = load("file", requested=False)
    assert backends == {}
    assert "broken on import" in notice
    assert notice.endswith("Going on without it.")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('broken on import')\n", "RuntimeError: broken on import"),
        ("FileBackend = dict\n", "is no backend, which has start"),
        ("\n", "AttributeError"),
        (
            "class Wordless(Exception):\n    def __str__(self):\n        raise RuntimeError\n\nraise Wordless\n",
            "Wordless: it has no text",
        ),
    ],
)
def test_backend_that_cannot_be_made_says_why(offer, source, reason):
    offer("trimtab-file", "file", source)
    with pytest.raises(BackendError, match=reason):
        load("file")
    (row,) = [row for row in plugins.installed() if row.name == "file"]
    assert reason in row.problem


def test_name_offered_twice_is_refused(offer):
    offer("one", "file")
    offer("two", "file")
    with pytest.raises(BackendError, match="offered by one and two"):
        load("file")


def test_instances_are_named_after_their_class_and_kept_apart(offer):
    offer("trimtab-file", "file")
    first, second = QuietBackend(), QuietBackend()
    backends, _ = load("file", first, second)
    assert list(backends) == ["file", "quiet", "quiet-2"]
    assert (backends["quiet"], backends["quiet-2"]) == (first, second)


def test_instance_of_a_class_called_like_one_of_ours_does_not_take_its_name():
    class JsonlBackend(QuietBackend): ...

    mine, ours = JsonlBackend(), trimtab_backends.jsonl.JsonlBackend()
    assert load(mine)[0] == {"jsonl-2": mine}
    assert load(ours)[0] == {"jsonl": ours}
    backends, _ = load(mine, "jsonl")
    assert backends["jsonl-2"] is mine
    assert isinstance(backends["jsonl"], trimtab_backends.jsonl.JsonlBackend)


def test_backend_named_twice_is_made_once(offer):
    offer("trimtab-file", "file")
    assert list(load("file", "file")[0]) == ["file"]
