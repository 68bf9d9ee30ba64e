import inspect
import os
import re
import sys
import typing
from pathlib import Path

import pytest

import trimtab
from trimtab import config
from trimtab.errors import ConfigError
from trimtab.testing import RecordingBackend


class QuietBackend:
    def start(self, run): ...
    def write(self, events): ...
    def close(self): ...


def resolve(environ=None, **arguments):
    return config.resolve(environ=environ or {}, **arguments)


def test_defaults_are_those_of_the_contract():
    settings = resolve()
    assert settings.backends == ("console", "jsonl", "prometheus")
    assert (settings.overhead, settings.gradients_every, settings.layers) == (0.01, None, None)
    assert (settings.directory, settings.host, settings.port) == (Path("runs"), "127.0.0.1", 9464)
    assert (settings.backends_requested, settings.port_requested, settings.resume) == (False, False, False)


def test_arguments_win_over_environment_over_file_over_defaults(tmp_path):
    file = tmp_path / "trimtab.toml"
    file.write_text('overhead = 0.1\nhost = "a"\nport = 1\n')
    settings = resolve({"TRIMTAB_HOST": "b", "TRIMTAB_PORT": "2"}, port=3, config=file)
    assert (settings.overhead, settings.host, settings.port, settings.directory) == (0.1, "b", 3, Path("runs"))
    assert settings.port_requested


def test_file_is_found_by_variable_and_argument_wins(tmp_path):
    for name, share in (("one", 0.1), ("two", 0.2)):
        (tmp_path / name).write_text(f"overhead = {share}")
    environ = {"TRIMTAB_CONFIG": str(tmp_path / "one")}
    assert resolve(environ).overhead == 0.1
    assert resolve(environ, config=str(tmp_path / "two")).overhead == 0.2


def test_every_variable_is_read():
    settings = resolve(
        {
            "TRIMTAB_RUN": "r",
            "TRIMTAB_DIR": "/d",
            "TRIMTAB_BACKENDS": "jsonl, prometheus",
            "TRIMTAB_HOST": "::1",
            "TRIMTAB_PORT": "0",
            "TRIMTAB_OVERHEAD": "0.5",
            "TRIMTAB_GRADIENTS_EVERY": "8",
            "TRIMTAB_LAYERS": "encoder.*,head.*",
            "TRIMTAB_RESUME": "1",
            "TRIMTAB_METRICS_TOKEN_FILE": "/t",
            "TRIMTAB_ALERTS": "https://alerts.example:9093/path",
            "TRIMTAB_ALERTS_EVERY": "1.5",
            "TRIMTAB_ALERTS_TOKEN_FILE": "/a",
            "TRIMTAB_ALERTS_CA_FILE": "/ca",
            "TRIMTAB_WEBHOOK_TOKEN_FILE": "/w",
            "TRIMTAB_TLS_CERTIFICATE_FILE": "/c",
            "TRIMTAB_TLS_KEY_FILE": "/k",
        }
    )
    assert (settings.run, settings.directory, settings.backends) == ("r", Path("/d"), ("jsonl", "prometheus"))
    assert (settings.host, settings.port, settings.overhead, settings.gradients_every) == ("::1", 0, 0.5, 8)
    assert (settings.layers, settings.resume) == (("encoder.*", "head.*"), True)
    assert settings.metrics_token_file == Path("/t")
    assert (settings.alerts, settings.alerts_every) == ("https://alerts.example:9093/path", 1.5)
    assert (settings.alerts_token_file, settings.alerts_ca_file) == (Path("/a"), Path("/ca"))
    assert settings.webhook_token_file == Path("/w")
    assert (settings.tls_certificate_file, settings.tls_key_file) == (Path("/c"), Path("/k"))
    assert settings.backends_requested
    assert settings.notices == ()


def test_empty_variable_counts_as_not_set():
    assert resolve({"TRIMTAB_PORT": "", "TRIMTAB_RUN": ""}).port == 9464


@pytest.mark.parametrize(
    ("monitor", "meant"),
    [
        ("loss", ("loss", "min")),
        ("accuracy", ("accuracy", "max")),
        ("bleu", ("bleu", "min")),
        (("bleu", "max"), ("bleu", "max")),
    ],
)
def test_monitored_value_is_better_when_lower_but_for_accuracy(monitor, meant):
    assert resolve(monitor=monitor).monitor == meant
    assert resolve({"TRIMTAB_MONITOR": monitor if isinstance(monitor, str) else ",".join(monitor)}).monitor == meant


@pytest.mark.parametrize(
    ("monitor", "told"),
    [("bleu", True), ("loss", False), ("accuracy", False), ("val_loss", False), (("bleu", "min"), False)],
)
def test_direction_that_is_a_guess_is_told_with_how_to_give_it(monitor, told):
    said = "monitor='bleu': the lowest value is taken to be the best. If it is the highest, say so: monitor="
    assert [notice.startswith(said) for notice in resolve(run="r", monitor=monitor).notices] == [True] * told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"overhead": 2}, "overhead=2: expected a fraction from 0 to 0.5. Use overhead=0.01"),
        ({"overhead": -0.1}, "overhead=-0.1: expected a fraction"),
        ({"overhead": float("nan")}, "overhead=nan: expected a fraction"),
        ({"overhead": "0.1"}, "overhead='0.1': expected a fraction"),
        ({"gradients_every": 0}, "gradients_every=0: expected a whole number of steps, 1 or more"),
        ({"gradients_every": True}, "gradients_every=True: expected a whole number"),
        ({"port": 65536}, "port=65536: expected a whole number from 0 to 65535"),
        ({"port": -1}, "port=-1: expected"),
        ({"run": "a/b"}, "run='a/b': expected letters, digits"),
        ({"run": ".."}, "run='..': expected"),
        ({"run": "a b"}, "run='a b': expected"),
        ({"run": "a\n"}, "run='a\\n': expected"),
        ({"run": "x" * 129}, "expected letters, digits, '.', '_' and '-', at most 128"),
        ({"layers": [3]}, "layers=[3]: expected patterns"),
        ({"layers": [""]}, "layers=['']: expected patterns"),
        ({"directory": 3}, "directory=3: expected the path of a directory"),
        ({"backends": [QuietBackend]}, "is neither a name nor an instance"),
        ({"backends": ["jsonl", 7]}, "7 is neither a name nor an instance"),
        ({"backends": 7}, "backends=7: expected a list"),
        ({"resume": True}, "resume=True: expected the name of the run"),
        ({"monitor": ("accuracy", "up")}, "monitor=('accuracy', 'up'): expected what to improve"),
        ({"monitor": ("accuracy", "max", "min")}, "expected what to improve"),
        ({"monitor": ""}, "expected what to improve"),
        ({"monitor": ("", "max")}, "expected what to improve"),
        ({"alerts": "localhost:9093"}, "alerts: expected the address of an Alertmanager or a Grafana"),
        ({"alerts": "http://"}, "alerts: expected the address"),
        ({"alerts": "http://h:99999"}, "alerts: expected the address"),
        ({"alerts": "http://h?token=x"}, "alerts: expected the address"),
        ({"alerts_every": 0.1}, "alerts_every=0.1: expected seconds, from 0.5 to 300"),
        ({"overhed": 0.1}, "overhed is not a setting. Did you mean 'overhead'?"),
    ],
)
def test_bad_argument_gets_one_sentence(arguments, sentence):
    with pytest.raises(ConfigError) as caught:
        resolve(**arguments)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("overhed = 0.1", "overhed is not a setting. Did you mean 'overhead'?"),
        ("[trimtab]\nact = true", "[trimtab] is not a setting. Write the keys at the top of the file, in no table."),
        ("port = '80'", "port = '80': expected a whole number"),
        ("backends = [1]", "1 is neither a name"),
        ("overhead = ", "expected TOML, but"),
        ("[run]\nname = 1", "run = {'name': 1}: expected letters"),
    ],
)
def test_bad_file_is_named_with_the_reason(tmp_path, content, sentence):
    file = tmp_path / "trimtab.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"trimtab\.toml") as caught:
        resolve(config=file)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfeo\x00v\x00e\x00r\x00",  # UTF-16, as a shell of Windows writes it
        b"# gr\xfc\xdfe",
        b"port = " + b"9" * 5000,
        b"layers = " + b"[" * 5000,
    ],
    ids=["UTF-16", "Latin-1", "a number without end", "deeper than anybody reads"],
)
def test_file_that_no_reader_takes_is_named(tmp_path, content):
    file = tmp_path / "trimtab.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"trimtab\.toml: expected TOML, but"):
        resolve(config=file)


@pytest.mark.parametrize("name", ["config", "directory", "targets", "snapshot_directory", "webhook_token_file"])
def test_path_that_no_system_takes_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}='a.*b'.* expected the path of a"):
        resolve(**{name: "a\0b"})


def test_path_that_is_too_long_for_the_system_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="File name too long"), trimtab.watch(directory=tmp_path / ("x" * 300)):
        pass


def test_what_was_given_is_told_in_part_where_it_is_long():
    with pytest.raises(ConfigError) as caught:
        resolve(run="x" * 100_000)
    assert len(str(caught.value)) < 600
    assert "expected letters" in str(caught.value)


def test_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="without user, password") as caught:
        resolve({"TRIMTAB_ALERTS": "http://me:hunter2@alerts.example"})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="without user, password") as caught:
        resolve(alerts=["http://me:hunter2@alerts.example"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("file", [5, True, b"trimtab.toml", ""])
def test_file_that_is_no_path_is_refused(file):
    with pytest.raises(ConfigError, match="expected the path of a TOML file"):
        resolve(config=file)


def test_variable_without_a_value_names_no_file():
    assert resolve({"TRIMTAB_CONFIG": ""}, run="r").run == "r"


def test_file_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        resolve({"TRIMTAB_CONFIG": str(tmp_path / "none.toml")})


def test_pipe_is_no_file_of_settings_since_they_are_read_more_than_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match=r"config='.*pipe': a pipe can be read only once.* Write them to a file"):
        config.check(environ={}, config=pipe)
    reads, writes = os.pipe()  # as a shell gives by <(...)
    os.write(writes, b'run = "mine"')
    os.close(writes)
    with pytest.raises(ConfigError, match="a pipe can be read only once"):
        config.check(environ={}, config=f"/dev/fd/{reads}")
    os.close(reads)


def test_file_of_settings_may_be_a_link(tmp_path):
    (tmp_path / "trimtab.toml").write_text('run = "mine"')
    (tmp_path / "link.toml").symlink_to(tmp_path / "trimtab.toml")
    assert resolve(config=tmp_path / "link.toml").run == "mine"


def test_bad_variable_is_named():
    with pytest.raises(ConfigError, match=r"^TRIMTAB_PORT=http: expected a whole number"):
        resolve({"TRIMTAB_PORT": "http"})


def test_unread_variable_is_a_notice_not_an_error():
    (notice,) = resolve({"TRIMTAB_PROT": "1", "OTHER": "x"}).notices
    assert notice == "TRIMTAB_PROT is set, but nothing reads it. Did you mean 'TRIMTAB_PORT'?"


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("http://grafana.example:3000", True),
        ("https://grafana.example:3000", False),
        ("http://127.0.0.1:3000", False),
        ("http://localhost", False),
        ("http://[::1]:3000", False),
    ],
)
def test_token_for_grafana_goes_in_plain_text_only_with_a_notice(address, warned):
    notices = resolve(run="r", grafana=address, grafana_token_file="token").notices
    assert notices == ((f"grafana={address!r}: the token is sent in plain text. Use https.",) if warned else ())


TLS = {"tls_certificate_file": "tls.crt", "tls_key_file": "tls.key"}


@pytest.mark.parametrize("token", ["metrics_token_file", "webhook_token_file"])
@pytest.mark.parametrize(
    ("served", "warned"),
    [({}, False), ({"host": "127.0.0.1"}, False), ({"host": "0.0.0.0"}, True), ({"host": "0.0.0.0", **TLS}, False)],
    ids=["as given", "loopback", "open", "open with TLS"],
)
def test_token_that_is_asked_for_comes_in_plain_text_only_with_a_notice(token, served, warned):
    given = {"metrics_token_file": "metrics", **served, token: "token"}
    notices = [notice for notice in resolve(run="r", **given).notices if notice.startswith(token)]
    assert ["plain text" in notice for notice in notices] == [True] * warned


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "node7", **TLS}, True),
        ({"host": "0.0.0.0", "metrics_token_file": "token", **TLS}, False),
        ({"host": "0.0.0.0", "backends": ["jsonl"]}, False),
        ({"host": "localhost"}, False),
        ({"port": 9464}, False),
    ],
)
def test_metrics_that_anybody_may_read_are_a_notice(given, warned):
    notices = resolve(run="r", **given).notices
    said = f"host={given.get('host')!r}: /metrics is open to everybody who reaches it. Set metrics_token_file."
    assert (said in notices) == warned
    assert not warned or len(notices) == 1


SERVED_BY_NOBODY = " without the backend prometheus: there is no /metrics. Add it to backends, or leave that out."


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"port": 9999, "backends": ["jsonl"]}, "port"),
        ({"host": "127.0.0.1", "port": 9999, "backends": ["console", "jsonl"]}, "host, port"),
        ({"linger": 5.0, "targets": "targets", "backends": ["jsonl"]}, "targets, linger"),
        ({"linger": 5.0, "backends": ["jsonl", RecordingBackend()]}, ""),
        ({"port": 9999, "backends": ["jsonl", RecordingBackend()]}, ""),
        ({"port": 9999, "backends": ["jsonl", "prometheus"]}, ""),
        ({"port": 9999}, ""),
        ({"backends": ["jsonl"]}, ""),
    ],
)
def test_settings_of_a_server_that_is_not_there_are_a_notice(given, named):
    assert resolve(run="r", **given).notices == ((named + SERVED_BY_NOBODY,) if named else ())


@pytest.mark.parametrize(
    ("given", "begins"),
    [
        ({"act": "alerts"}, ["act='alerts' without alerts or webhook_token_file: "]),
        ({"alerts_token_file": "token"}, ["alerts_token_file without alerts: "]),
        ({"alerts_ca_file": "ca.crt", "webhook_token_file": "token"}, ["alerts_ca_file without alerts: "]),
        ({"act": "alerts", "alerts": "http://127.0.0.1:9093", "alerts_token_file": "token"}, []),
        ({"act": "alerts", "webhook_token_file": "token"}, []),
        ({"act": "alerts", "replay": "before"}, []),
        ({"act": True}, []),
    ],
)
def test_settings_about_alerts_that_cannot_come_in_are_a_notice(given, begins):
    notices = resolve(run="r", **given).notices
    assert len(notices) == len(begins)
    assert all(map(str.startswith, notices, begins))


@pytest.mark.parametrize(
    ("given", "begins"),
    [
        ({"alerts_every": 3.0}, ["alerts_every without alerts: "]),
        ({"alerts_every": 3.0, "webhook_token_file": "token"}, ["alerts_every without alerts: "]),
        ({"alerts_every": 3.0, "alerts": "http://127.0.0.1:9093"}, []),
        ({"grafana_token_file": "token"}, ["grafana_token_file without grafana: "]),
        ({"grafana_ca_file": "ca.crt"}, ["grafana_ca_file without grafana: "]),
        ({"grafana": "http://127.0.0.1:3000", "grafana_token_file": "token", "grafana_ca_file": "ca.crt"}, []),
        ({"snapshot_directory": "kept"}, ["snapshot_directory without act: "]),
        ({"snapshot_gib": 1.0, "snapshot_rng": True}, ["snapshot_gib, snapshot_rng without act: "]),
        ({"snapshot_gib": 1.0, "act": False}, ["snapshot_gib without act: "]),
        ({"snapshot_gib": 1.0, "act": "process"}, []),
        ({"snapshot_gib": 1.0, "replay": "before"}, []),
    ],
)
def test_settings_that_have_no_effect_where_they_stand_are_a_notice(tmp_path, given, begins):
    file = tmp_path / "trimtab.toml"
    values = [
        (name, str(value).lower() if isinstance(value, bool | float) else f'"{value}"') for name, value in given.items()
    ]
    file.write_text("".join(f"{name} = {value}\n" for name, value in values))
    for notices in (resolve(run="r", **given).notices, resolve(run="r", config=file).notices):
        assert len(notices) == len(begins)
        assert all(map(str.startswith, notices, begins))


def test_variables_that_may_be_meant_for_other_runs_are_no_notice():
    environ = {
        "TRIMTAB_TARGETS_DIR": "targets",
        "TRIMTAB_LINGER": "5",
        "TRIMTAB_ALERTS_EVERY": "3",
        "TRIMTAB_GRAFANA_TOKEN_FILE": "token",
        "TRIMTAB_SNAPSHOT_DIR": "kept",
        "TRIMTAB_SNAPSHOT_GIB": "1",
    }
    assert resolve(environ, run="r", backends=["jsonl"]).notices == ()


def test_certificate_without_key_is_refused():
    with pytest.raises(ConfigError, match="expected both or none"):
        resolve({"TRIMTAB_TLS_CERTIFICATE_FILE": "/c"})


def test_policies_are_named_in_the_environment_with_commas():
    from trimtab.steering.assembly import rules_and_policies

    config = resolve({"TRIMTAB_POLICIES": "loss_nonfinite,gradient_exploding"})
    assert [policy.name for policy in rules_and_policies(config)[1]] == ["loss_nonfinite", "gradient_exploding"]


def test_rules_in_the_environment_are_refused_with_where_they_belong():
    with pytest.raises(
        ConfigError, match=r"^TRIMTAB_RULES=loss_spike: rules are tables, .* the file of TRIMTAB_CONFIG\.$"
    ):
        resolve({"TRIMTAB_RULES": "loss_spike"})


def test_bare_string_of_backends_is_a_list_parted_by_commas():
    assert resolve(backends="jsonl").backends == ("jsonl",)
    assert resolve(backends="console,jsonl").backends == ("console", "jsonl")
    assert resolve(backends=[]).backends == ()


@pytest.mark.parametrize("name", ["backends", "layers", "policies"])
@pytest.mark.parametrize("text", [",", " , "])
def test_text_that_holds_commas_alone_names_nothing_and_is_refused(name, text):
    variable = f"TRIMTAB_{name.upper()}"
    with pytest.raises(ConfigError, match=rf"^{variable}={text}: there is no name in it\. Expected "):
        resolve({variable: text})
    with pytest.raises(ConfigError, match="there is no name in it"):
        resolve(**{name: text})


def test_backend_whose_repr_or_hash_fails_is_taken(tmp_path):
    class Shy(QuietBackend):
        __hash__ = None

        def __repr__(self):
            raise RuntimeError("not connected")

    mine = Shy()
    assert resolve(backends=[mine]).backends == (mine,)
    grafana = {"grafana": "http://127.0.0.1:3000", "grafana_token_file": tmp_path / "token"}
    assert resolve(backends=[mine], **grafana).backends == (mine, "grafana")


def test_instances_are_taken_among_the_names():
    mine = QuietBackend()
    assert resolve(backends=("jsonl", mine)).backends == ("jsonl", mine)


def test_one_layer_pattern_may_be_a_string():
    assert resolve(layers="encoder.*").layers == ("encoder.*",)


@pytest.mark.parametrize(("raw", "off"), [("1", True), ("true", True), ("0", False), ("", False), ("FALSE", False)])
def test_disabled_reads_the_variable(raw, off):
    assert config.disabled({"TRIMTAB_DISABLED": raw}) is off


def test_disabled_refuses_what_is_no_boolean():
    with pytest.raises(ConfigError, match="TRIMTAB_DISABLED=maybe: expected 1 or 0"):
        config.disabled({"TRIMTAB_DISABLED": "maybe"})


def test_run_is_named_after_the_function_or_the_script():
    assert resolve(default_name="train").run.startswith("train-")
    assert resolve(run="mine", default_name="train").run == "mine"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="overloads can be asked for since Python 3.11")
def test_every_setting_is_an_argument_that_type_checkers_and_the_documentation_know():
    with_options = typing.get_overloads(trimtab.watch)[-1]
    known = set(inspect.signature(with_options).parameters) - {"fn"}
    assert known == {*config._SETTINGS, "config"}
    described = {
        name for line in re.findall(r"^ {8}([a-z_, ]+):", trimtab.watch.__doc__, re.M) for name in line.split(", ")
    }
    assert described == known


@pytest.mark.parametrize("name", ["directory", "targets", "snapshot_directory", "metrics_token_file", "alerts_ca_file"])
def test_tilde_is_the_home_directory(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "trimtab.toml").write_text(f'{name} = "~/place"')
    variable = {
        "directory": "TRIMTAB_DIR",
        "snapshot_directory": "TRIMTAB_SNAPSHOT_DIR",
        "targets": "TRIMTAB_TARGETS_DIR",
    }
    given = [
        {"arguments": {name: "~/place"}},
        {"arguments": {name: Path("~/place")}},
        {"arguments": {"config": "~/trimtab.toml"}},
        {"environ": {"TRIMTAB_CONFIG": "~/trimtab.toml"}},
        {"environ": {variable.get(name, f"TRIMTAB_{name.upper()}"): "~/place"}},
    ]
    for each in given:
        settings = resolve(each.get("environ", {}), run="r", **each.get("arguments", {}))
        assert getattr(settings, name) == tmp_path / "place", each
    assert getattr(resolve({}, run="r", **{name: "~nobody-of-that-name/x"}), name) == Path("~nobody-of-that-name/x")
