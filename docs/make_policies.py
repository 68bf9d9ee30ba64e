"""Writes the ladders that ship into docs/policies.md: `python docs/make_policies.py`. A test checks that they are
current."""

from pathlib import Path

from trimtab.actions import FOR_GOOD
from trimtab.policies import defaults, reading
from trimtab.policies.policy import Policy, Rung

PAGE = Path(__file__).with_name("policies.md")
BEGIN, END = "<!-- made by docs/make_policies.py -->\n", "<!-- end -->"


def page() -> str:
    """The whole page, its table made anew."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return before + BEGIN + "\n".join(table()) + "\n" + END + rest.partition(END)[2]


def table() -> list[str]:
    rows = ["| rule | ladder | cooldown, budget, memory | why |", "| --- | --- | --- | --- |"]
    rows += [_row(policy) for policy in defaults.POLICIES]
    rows += [f"| `{rule}` | none: advice only | | {reason} |" for rule, reason in defaults.ADVICE_ONLY.items()]
    return rows


def _row(policy: Policy) -> str:
    ladder = "<br>".join(f"{at}. {_rung(rung)}" for at, rung in enumerate(policy.rungs, start=1))
    numbers = f"{policy.cooldown}, {policy.budget}, {policy.memory}"
    return f"| `{policy.on}` | {ladder} | {numbers} | {defaults.REASONS[policy.on]} |"


def _rung(rung: Rung) -> str:
    return ", ".join(_action(reading.describe(action)) for action in rung)


def _action(described: dict[str, object]) -> str:
    name = described.pop("action")
    shown = {key: value for key, value in described.items() if key != "reason"}
    arguments = ", ".join(
        "until the run ends" if value == FOR_GOOD else f"{key} {value:g}" for key, value in shown.items()
    )
    return f"`{name}` {arguments}".rstrip()


if __name__ == "__main__":
    PAGE.write_text(page())
