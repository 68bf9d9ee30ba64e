"""Writes docs/rules/ from the catalog, the signals and the policies that ship: `python docs/make_rules.py`. A test
checks that every page is current."""

import inspect
import re
import textwrap
from pathlib import Path

from trimtab.actions import FOR_GOOD
from trimtab.catalog import RULES, RuleSpec
from trimtab.policies import defaults, reading
from trimtab.policies.policy import Rung
from trimtab.signals import SIGNALS, Itself

FOLDER = Path(__file__).with_name("rules")
POINTS = {
    "step": "every step of each optimizer",
    "gradients": "every step of each optimizer whose gradients are read (see `gradients_every`)",
    "validation": "every validation pass",
    "record": "every record, about one a second",
    "watchdog": "a thread, every few seconds",
}


def pages() -> dict[str, str]:
    """Every page by its name: one for each rule, and one that lists them."""
    return {"README.md": index(), **{f"{name}.md": page(spec) for name, spec in RULES.items()}}


def index() -> str:
    rows = [
        f"| [`{name}`]({name}.md) | {spec.severity} | {spec.threshold:g} | {spec.hold} | {spec.meaning} |"
        for name, spec in RULES.items()
    ]
    return "\n".join(
        [
            "# Rules",
            "",
            "Made from the catalog by `docs/make_rules.py`.",
            "",
            *wrapped(
                "A rule compares a signal (larger is worse, 0 is healthy) with a threshold. Its level is the least of "
                "the last `hold` points over the threshold: at 1 it fires. Severity `info` never acts; what the others "
                "may do stands in [policies](../policies.md), and is only shown unless `act=` says otherwise."
            ),
            "",
            "| rule | severity | threshold | hold | |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            *CHANGING,
            *signals(),
        ]
    )


def signals() -> list[str]:
    """The table of signals that a rule of one's own may name."""
    judged = {spec.signal: spec for spec in RULES.values()}
    rows = []
    for name in SIGNALS:
        rule = judged.get(name)
        if rule and rule.judged == "watchdog":  # which no other rule may read
            continue
        link = f" ([`{rule.name}`]({rule.name}.md))" if rule else ""
        said = rule.meaning if rule and SIGNALS[name].formula is Itself else described_signal(name).partition("\n")[0]
        rows.append(f"| `{name}`{link} | {said} |")
    return ["## Signals", "", *wrapped(SIGNALS_OF_ONES_OWN), "", "| signal | |", "| --- | --- |", *rows, ""]


def page(spec: RuleSpec) -> str:
    return "\n".join(
        [
            f"# {spec.name}",
            "",
            *wrapped(spec.meaning),
            "",
            "| severity | threshold | hold | clear | judged at |",
            "| --- | --- | --- | --- | --- |",
            f"| {spec.severity} | {spec.threshold:g} | {points(spec.hold)} | {spec.clear:g} | {POINTS[spec.judged]} |",
            "",
            *suspended(spec),
            f"## How it is computed: `{spec.signal}`",
            "",
            *formula(spec),
            "",
            "## What to do",
            "",
            *wrapped(spec.advice),
            "",
            "## What Trimtab does when it may act",
            "",
            *ladder(spec),
            "",
        ]
    )


def points(count: int) -> str:
    return "1 point" if count == 1 else f"{count} points"


def suspended(spec: RuleSpec) -> list[str]:
    lines = []
    if spec.relative:
        lines.append("It is not judged for 20 points after your own learning rate changed by 2x within 8 steps.")
    if spec.steady:
        lines.append("It is judged only while the learning rate is neither rising nor under a fifth of its highest.")
    if spec.descent:
        lines.append(
            "It is not judged for optimizers that work against each other, as those of a GAN or an actor and its "
            "critic: one's loss goes up when the other gets better."
        )
    return [*wrapped(" ".join(lines)), ""] if lines else []


def formula(spec: RuleSpec) -> list[str]:
    return described_signal(spec.signal).splitlines()


def described_signal(signal: str) -> str:
    """Its docstring, as Markdown: other signals by the names that rules use, and no place in the code."""
    text = inspect.cleandoc(SIGNALS[signal].formula.__doc__ or "")
    text = re.sub(r"\s\((see )?`(Course|sample)\.\w+`\)", "", text)
    for name, other in SIGNALS.items():
        text = text.replace(f"`{getattr(other.formula, '__name__', '')}`", f"`{name}`")
    return text.replace("|", "\\|")


def ladder(spec: RuleSpec) -> list[str]:
    policy = next((policy for policy in defaults.POLICIES if policy.on == spec.name), None)
    if policy is None:
        return wrapped(f"Nothing: advice only. {defaults.ADVICE_ONLY.get(spec.name, '')}".rstrip())
    lines = [f"{at}. {described(rung)}" for at, rung in enumerate(policy.rungs, start=1)]
    if spec.severity == "info":
        lines = ["As it ships nothing, since its severity is info. Given the severity warning:", "", *lines]
    return [*lines, "", *wrapped(defaults.REASONS[spec.name])]


def described(rung: Rung) -> str:
    return ", ".join(action(reading.describe(each)) for each in rung)


def action(found: dict[str, object]) -> str:
    name = found.pop("action")
    shown = {key: value for key, value in found.items() if isinstance(value, (int, float))}
    arguments = ", ".join("for good" if value == FOR_GOOD else f"{key} {value:g}" for key, value in shown.items())
    return f"`{name}` {arguments}".rstrip()


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_on_hyphens=False)


CHANGING = (
    "## Changing a rule, adding one",
    "",
    "Rules that you give come on top of those that ship, or change the one of the same name. In the file that",
    "`config=` names; `enabled = false` leaves a rule out:",
    "",
    "```toml",
    "[[rules]]",
    'name = "overfitting"',
    "threshold = 0.3",
    "",
    "[[rules]]",
    'name = "perplexity_high"',
    'signal = "logged:perplexity"',
    "threshold = 100",
    "hold = 3",
    "```",
    "",
    "Of `no_improvement`, `min_delta` may be given too: how much better than the best a pass has to be, in the unit of",
    "the metric.",
    "",
    "In Python, where a rule may also judge a function of the loss of each step; in the file such a function is named,",
    'as in `signal = "mine:negative"`, and Python must find its module:',
    "",
    "```python",
    "import trimtab",
    "",
    "",
    "def negative(loss):",
    "    return None if loss is None else max(0.0, -loss)",
    "",
    "",
    'below_zero = trimtab.Rule("loss_negative", signal=negative, threshold=0.1, hold=5)',
    'perplexed = trimtab.Rule("perplexity_high", signal="logged:perplexity", threshold=100, hold=3)',
    "",
    'with trimtab.watch(backends=["jsonl"], rules=[below_zero, perplexed]):',
    '    trimtab.log(perplexity=12.3, phase="validation")',
    "```",
    "",
)
SIGNALS_OF_ONES_OWN = (
    "What `signal=` of a rule of your own may be: one of these, `logged:NAME` for a value that you log, or a function."
)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
