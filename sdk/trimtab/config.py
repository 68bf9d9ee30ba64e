"""Settings: arguments win over environment, environment over a TOML file, that over defaults.

The file is the one named by `config=` or `TRIMTAB_CONFIG`; none is picked up from the working directory. Its keys
are the names of the arguments; relative paths in it start from the working directory, as everywhere else, and `~` is
the home directory. An empty variable counts as not set.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from trimtab import combinations, files, names, plugins, tokens
from trimtab.errors import ConfigError, did_you_mean, shortened
from trimtab.guard import text_of
from trimtab.settings import Config

MOST_GIB = 1e9  # so that the number of bytes is a whole one of 63 bits


@dataclass(frozen=True, slots=True)
class _Setting:
    variable: str
    kind: Any  # what msgspec converts to
    allows: Callable[[Any], bool]
    expected: str


@dataclass(frozen=True, slots=True)
class _Given:
    """One value, and how the user wrote it."""

    value: Any
    said: str
    is_text: bool = False
    file: str = ""  # that it stands in


def _anything(value: Any) -> bool:
    return True


def _is_path(text: str) -> bool:
    return bool(text) and "\0" not in text


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # which leaves the `~name` of nobody as it is


def _a_file(variable: str) -> _Setting:
    return _Setting(variable, str, _is_path, "the path of a file")


def _a_directory(variable: str) -> _Setting:
    return _Setting(variable, str, _is_path, "the path of a directory")


def _is_address(text: str) -> bool:
    """Whether it is an HTTP address without a secret, which would show in process lists and logs."""
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
            and not (parts.username or parts.password or parts.query or parts.fragment)
            and text.isprintable()
            and " " not in text
        )
    except ValueError:
        return False


_SETTINGS: dict[str, _Setting] = {
    "run": _Setting("TRIMTAB_RUN", str, names.is_valid, f"{names.EXPECTED}. A place for runs is given by directory"),
    "backends": _Setting("TRIMTAB_BACKENDS", list[Any], _anything, "a list of backend names or instances"),
    "overhead": _Setting(
        "TRIMTAB_OVERHEAD",
        float,
        lambda share: 0 <= share <= 0.5,
        "a fraction from 0 to 0.5. Use overhead=0.01 to spend at most 1 % of each step",
    ),
    "gradients_every": _Setting(
        "TRIMTAB_GRADIENTS_EVERY",
        int,
        lambda steps: steps >= 1,
        "a whole number of steps, 1 or more. Leave it out to let Trimtab choose within the overhead",
    ),
    "layers": _Setting("TRIMTAB_LAYERS", list[str], all, "patterns of parameter names, such as 'encoder.*'"),
    "directory": _a_directory("TRIMTAB_DIR"),
    "host": _Setting("TRIMTAB_HOST", str, bool, "a host name or an address, such as 127.0.0.1"),
    "port": _Setting(
        "TRIMTAB_PORT", int, lambda port: 0 <= port <= 65535, "a whole number from 0 to 65535, where 0 is any free port"
    ),
    "resume": _Setting("TRIMTAB_RESUME", bool, _anything, "true or false"),
    "act": _Setting(
        "TRIMTAB_ACT",
        bool | Literal["process", "alerts"],
        _anything,
        "false (adjustments are only shown), 'process' (on rules judged here), 'alerts' (on alerts) or true (both)",
    ),
    "replay": _Setting("TRIMTAB_REPLAY", str, bool, "a run that has ended: its name, its directory or its log"),
    "snapshot_directory": _a_directory("TRIMTAB_SNAPSHOT_DIR"),
    "snapshot_gib": _Setting(
        "TRIMTAB_SNAPSHOT_GIB",
        float,
        lambda size: 0 < size <= MOST_GIB,
        "GiB over 0 that all snapshots may take, such as 8",
    ),
    "snapshot_rng": _Setting("TRIMTAB_SNAPSHOT_RNG", bool, _anything, "true or false"),
    "rules": _Setting("TRIMTAB_RULES", list[Any], _anything, "a list of rules; see trimtab.Rule"),
    "policies": _Setting("TRIMTAB_POLICIES", list[Any], _anything, "a list of policies; see trimtab.Policy"),
    "monitor": _Setting(
        "TRIMTAB_MONITOR",
        list[str],
        lambda pair: all(pair) and (len(pair) == 1 or (len(pair) == 2 and pair[1] in ("min", "max"))),
        "what to improve, such as 'loss', and 'min' or 'max', such as ('accuracy', 'max')",
    ),
    "on_halt": _Setting("TRIMTAB_ON_HALT", Literal["ask", "unwind"], _anything, "'ask' or 'unwind'"),
    "alerts": _Setting(
        "TRIMTAB_ALERTS",
        str,
        _is_address,
        "the address of an Alertmanager or a Grafana, such as http://127.0.0.1:9093, without user, password or query. "
        "A token is read from alerts_token_file",
    ),
    "alerts_every": _Setting(
        "TRIMTAB_ALERTS_EVERY", float, lambda seconds: 0.5 <= seconds <= 300, "seconds, from 0.5 to 300"
    ),
    "alerts_token_file": _a_file("TRIMTAB_ALERTS_TOKEN_FILE"),
    "alerts_ca_file": _a_file("TRIMTAB_ALERTS_CA_FILE"),
    "webhook_token_file": _a_file("TRIMTAB_WEBHOOK_TOKEN_FILE"),
    "grafana": _Setting(
        "TRIMTAB_GRAFANA",
        str,
        _is_address,
        "the address of a Grafana, such as http://127.0.0.1:3000, without user, password or query. "
        "Its token is read from grafana_token_file",
    ),
    "grafana_token_file": _a_file("TRIMTAB_GRAFANA_TOKEN_FILE"),
    "grafana_ca_file": _a_file("TRIMTAB_GRAFANA_CA_FILE"),
    "metrics_token_file": _a_file("TRIMTAB_METRICS_TOKEN_FILE"),
    "tls_certificate_file": _a_file("TRIMTAB_TLS_CERTIFICATE_FILE"),
    "tls_key_file": _a_file("TRIMTAB_TLS_KEY_FILE"),
    "targets": _a_directory("TRIMTAB_TARGETS_DIR"),
    "linger": _Setting(
        "TRIMTAB_LINGER",
        float,
        lambda seconds: 0 <= seconds <= 3600 or seconds == math.inf,
        "seconds from 0 to 3600, where 0 is not to wait, or inf to wait until Ctrl-C",
    ),
}
_SERVING = frozenset(  # who sets one of these wants /metrics
    ("host", "port", "targets", "metrics_token_file", "webhook_token_file", "tls_certificate_file", "tls_key_file")
)
_LISTS = ("backends", "layers", "rules", "policies", "monitor")
_PATHS = ("directory", "targets", "snapshot_directory", *(name for name in _SETTINGS if name.endswith("_file")))
_VARIABLES = {setting.variable for setting in _SETTINGS.values()} | {"TRIMTAB_CONFIG", "TRIMTAB_DISABLED"}


def resolve(*, default_name: str | None = None, environ: Mapping[str, str] = os.environ, **arguments: Any) -> Config:
    """Every setting of a run.

    `arguments` are those of `watch`; None means not given. A run without a name is called after `default_name`, or
    else the script. What the user should be told but need not stop for, such as a `TRIMTAB_` variable that nothing
    reads, is in `Config.notices`.

    Raises:
        ConfigError: a value, a key, a file or the name of a backend that cannot be used, in one sentence.
        BackendError: two distributions offer a backend that is named.
    """
    given = _given(environ, arguments)
    settings = _checked(given)
    notices = list(_unread(environ))
    if "run" not in settings:
        settings["run"], notice = names.agree(names.fresh(default_name or names.of_script()), environ)
        notices += [notice] if notice else []
    if len(settings.get("monitor", ())) == 1:
        settings["monitor"], notice = _directed(*settings["monitor"])
        notices += [notice] if notice else []
    requested = "backends" in settings
    if "grafana" in settings:
        backends = settings.get("backends", Config(run="").backends)
        settings["backends"] = backends if "grafana" in backends else (*backends, "grafana")
        warning = tokens.warning("grafana", settings["grafana"])
        notices += [warning] if warning else []
    notices += combinations.notices(settings, spoken={name for name, item in given.items() if not item.is_text})
    return Config(
        **settings,
        backends_requested=requested,
        serving_requested=not _SERVING.isdisjoint(settings),
        port_requested="port" in settings,
        files={name: item.file for name, item in given.items() if item.file},
        notices=tuple(notices),
    )


def _directed(monitor: str) -> tuple[tuple[str, str], str]:
    """What is monitored with its direction, and what to tell the user where that is a guess."""
    if monitor == "accuracy" or "loss" in monitor:
        return (monitor, "max" if monitor == "accuracy" else "min"), ""
    remedy = f"If it is the highest, say so: monitor=({monitor!r}, 'max'), or TRIMTAB_MONITOR={monitor},max."
    return (monitor, "min"), f"monitor={monitor!r}: the lowest value is taken to be the best. {remedy}"


def check(*, environ: Mapping[str, str] = os.environ, **arguments: Any) -> dict[str, Any]:
    """The settings that somebody gave, validated; raises like `resolve`. Costs a file read, names no run."""
    return _checked(_given(environ, arguments))


def _given(environ: Mapping[str, str], arguments: Mapping[str, Any]) -> dict[str, _Given]:
    """What somebody gave, each setting from the first place that has it."""
    arguments = dict(arguments)
    file = arguments.pop("config", None)
    if file is None:
        file = environ.get("TRIMTAB_CONFIG") or None
    return {
        **(_from_file(file) if file is not None else {}),
        **_from_environment(environ),
        **_from_arguments(arguments),
    }


def _checked(given: Mapping[str, _Given]) -> dict[str, Any]:
    """What can be told without a run. Raises like `check`."""
    settings = {name: _read(name, item) for name, item in given.items()}
    if settings.get("resume") and "run" not in settings:
        raise ConfigError(f"{given['resume'].said}: expected the name of the run to go on with. Give run as well.")
    certificate, key = (settings.get(name) for name in ("tls_certificate_file", "tls_key_file"))
    if (certificate is None) != (key is None):
        raise ConfigError("tls_certificate_file and tls_key_file: expected both or none. Give the one that is missing.")
    if settings.get("grafana") and "grafana_token_file" not in settings:
        raise ConfigError("grafana without grafana_token_file: expected both. Name the file of its token as well.")
    return settings


def disabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `TRIMTAB_DISABLED` asks that nothing be watched."""
    raw = environ.get("TRIMTAB_DISABLED") or "0"
    if raw.lower() not in ("0", "1", "false", "true"):
        raise ConfigError(f"TRIMTAB_DISABLED={raw}: expected 1 or 0. Unset it to watch.")
    return raw.lower() in ("1", "true")


def unwatched(arguments: Mapping[str, Any]) -> Config:
    """What a run that watches nothing is called, and where it would be: no file is read, and nothing is refused."""
    run, place = arguments.get("run") or os.environ.get("TRIMTAB_RUN"), arguments.get("directory")
    name = run if isinstance(run, str) and names.is_valid(run) else names.fresh(names.of_script())
    if not isinstance(place, str | os.PathLike):
        place = os.environ.get("TRIMTAB_DIR") or Config(run=name).directory
    return Config(run=name, directory=_path(str(place)))


def _from_arguments(arguments: Mapping[str, Any]) -> dict[str, _Given]:
    _refuse_unknown("", arguments)
    given = {name: value for name, value in arguments.items() if value is not None}
    return {name: _Given(value, shortened(f"{name}={text_of(value, by=repr)}")) for name, value in given.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    said = {name: (setting.variable, environ.get(setting.variable)) for name, setting in _SETTINGS.items()}
    return {name: _Given(raw, shortened(f"{var}={raw}"), is_text=True) for name, (var, raw) in said.items() if raw}


def _from_file(file: Any) -> dict[str, _Given]:
    import msgspec

    try:
        text = os.fspath(file)
        path = _path(text)
    except TypeError as error:
        raise ConfigError(f"config={file!r}: expected the path of a TOML file.") from error
    if not _is_path(text):
        raise ConfigError(f"config={file!r}: expected the path of a TOML file.")
    try:
        content = msgspec.toml.decode(_content(path), type=dict[str, Any])
    except OSError as error:
        raise ConfigError(f"config={str(path)!r}: {error.strerror}. Give the path of a TOML file.") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # also a UTF-16 file, and numbers without end
        raise ConfigError(f"{path}: expected TOML, but {error}. Correct the file.") from error
    for name, value in content.items():
        if isinstance(value, dict) and name not in _SETTINGS:
            raise ConfigError(f"{path}: [{name}] is not a setting. Write the keys at the top of the file, in no table.")
    _refuse_unknown(f"{path}: ", content)
    said = {name: shortened(f"{path}: {name} = {value!r}") for name, value in content.items()}
    return {name: _Given(value, said[name], file=str(path)) for name, value in content.items()}


def _content(path: Path) -> bytes:
    """Read whenever settings are asked for, so not from a pipe, which gives what is in it once."""
    with files.opened(path, follows_link=True) as file:
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            raise ConfigError(
                f"config={str(path)!r}: a pipe can be read only once, and settings are read more often. Write them to "
                "a file, and give its path."
            )
        return file.read()


def _refuse_unknown(where: str, given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in _SETTINGS:
            raise ConfigError(f"{where}{name} is not a setting. {did_you_mean(name, _SETTINGS)}")


def _unread(environ: Mapping[str, str]) -> Iterator[str]:
    for variable in sorted(environ):
        if variable.startswith("TRIMTAB_") and variable not in _VARIABLES:
            yield f"{variable} is set, but nothing reads it. {did_you_mean(variable, _VARIABLES)}"


def _read(name: str, given: _Given) -> Any:
    import msgspec

    setting = _SETTINGS[name]
    said = name if name in ("alerts", "grafana") else given.said  # there may be a password in it
    if name == "rules" and given.is_text:
        raise ConfigError(
            f"{said}: rules are tables, which no variable holds. Write them to the file of TRIMTAB_CONFIG."
        )
    value = listed(given.value) if name in _LISTS else given.value
    if name in _PATHS and isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        value = msgspec.convert(value, setting.kind, strict=not given.is_text)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{said}: expected {setting.expected}.") from error
    if not setting.allows(value):
        raise ConfigError(f"{said}: expected {setting.expected}.")
    if value == [] and isinstance(given.value, str):
        raise ConfigError(f"{said}: there is no name in it. Expected {setting.expected}.")
    if name == "backends":
        _refuse_unusable(given.said, value)
    if name in _PATHS:
        return _path(value)
    return tuple(value) if name in _LISTS else value


def listed(value: Any) -> Any:
    """A bare string is the list of what its commas part, in arguments as in the environment."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return list(value) if isinstance(value, tuple) else value


def _refuse_unusable(said: str, backends: list[Any]) -> None:
    for backend in backends:
        if isinstance(backend, str):
            plugins.find(backend)
        elif not plugins.is_backend(backend):
            raise ConfigError(
                f"{said}: {text_of(backend, by=repr)} is neither a name nor an instance with start(), write() and "
                "close(). Give a name that `trimtab backends` lists, or an instance."
            )
