"""What was found of one link of the chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: about what, what is so, and the next thing to do where that is not as it should be."""

    verdict: Literal["ok", "wrong", "skipped"]
    subject: str
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    return Finding("ok", subject, text)


def wrong(subject: str, text: str, advice: str) -> Finding:
    return Finding("wrong", subject, text, advice)


def skipped(subject: str, text: str, advice: str = "") -> Finding:
    return Finding("skipped", subject, text, advice)
