"""A rung of a policy's ladder in words, as the pages of the rules and that of the policies show it."""

from trimtab.actions import FOR_GOOD, Action
from trimtab.policies import reading
from trimtab.policies.policy import Rung


def described(rung: Rung) -> str:
    """Its actions as Markdown, with their numbers."""
    return ", ".join(_action(action) for action in rung)


def _action(action: Action) -> str:
    found = reading.describe(action)
    name = found.pop("action")
    shown = {key: value for key, value in found.items() if key != "reason"}
    arguments = ", ".join(
        "until the run ends" if value == FOR_GOOD else f"{key} {value:g}" for key, value in shown.items()
    )
    return f"`{name}` {arguments}".rstrip()
