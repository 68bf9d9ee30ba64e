"""Writes plain values as YAML that people can read: mappings, lists, strings, numbers and booleans.

The few lines save a dependency. A string is written bare where no reader could take it for anything else, as a block
where it has several lines, in single quotes where it holds double ones, and otherwise as JSON, which is YAML too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*|[0-9]+[smhd]")
WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def dump(value: object) -> str:
    """`value` as a YAML document."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: object) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _entry(f"{_string(str(key))}:", item)
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        for item in value:
            first, *rest = _lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield _scalar(value)


def _entry(key: str, value: object) -> Iterator[str]:
    if isinstance(value, str) and "\n" in value:
        yield f"{key} |-"
        yield from (f"  {line}" for line in value.split("\n"))
    elif isinstance(value, (Mapping, list, tuple)) and value:
        yield key
        yield from (f"  {line}" for line in _lines(value))
    else:
        yield f"{key} {_scalar(value)}"


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return _string(value)
    return json.dumps(value)


def _string(text: str) -> str:
    if BARE.fullmatch(text) and text.lower() not in WORDS:
        return text
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)
