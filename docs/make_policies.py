"""Writes the ladders that ship into docs/policies.md: `python docs/make_policies.py`. A test checks that they are
current."""

from pathlib import Path

from ladders import described

from trimtab.policies import defaults
from trimtab.policies.policy import Policy

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
    ladder = "<br>".join(f"{at}. {described(rung)}" for at, rung in enumerate(policy.rungs, start=1))
    numbers = f"{policy.cooldown}, {policy.budget}, {policy.memory}"
    return f"| `{policy.on}` | {ladder} | {numbers} | {defaults.REASONS[policy.on]} |"


if __name__ == "__main__":
    PAGE.write_text(page())
