"""Writes docs/rules/ from the catalog, the signals and the policies that ship: `python docs/make_rules.py`. A test
checks that every page is current."""

import inspect
import re
import textwrap
from pathlib import Path

from ladders import described

from trimtab.catalog.rules import RULES, RuleSpec
from trimtab.policies import defaults
from trimtab.signals import SIGNALS

FOLDER = Path(__file__).with_name("rules")
POINTS = {
    "step": "each step of each optimizer",
    "gradients": "each step of each optimizer on which gradients are read (see `gradients_every`)",
    "validation": "each validation pass",
    "record": "each record",
    "watchdog": "every five seconds, on a thread of its own",
}
MEASURED = {  # what stands behind the signals that are given as numbers
    "hung_seconds_ratio": "The time without a sign of life, over the limit. The limit is 600 s, or 20 times the median "
    "step time, or twice the second-longest pause that the run came back from, whichever is longest. Before the first "
    "step it is an hour.",
    "data_wait_share": "The time that training waited for the loader, as a share of the time of its steps. There is a "
    "point for each record of steps, in fast loops about once a second.",
    "overhead_excess": "The share of time that Trimtab takes, over the share that `overhead=` allows. Measured every "
    "five seconds.",
    "backend_errors": "The number of exceptions that backends raised within the last five seconds.",
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
                "A rule compares a signal (larger is worse, 0 is healthy) with a threshold. It fires when `hold` "
                "points in a row have been at the threshold or above, and stays on until `hold` points in a row have "
                "been under 0.8 of it (`clear`; its page says where that is another)."
            ),
            "",
            *wrapped(
                "The **level** of a rule is the smallest of its last `hold` points, divided by the threshold. Example: "
                "`overfitting` has the threshold 0.15 and the hold 3. After passes with 0.2, 0.3 and 0.18 its level is "
                "0.18 / 0.15 = 1.2, and it fires."
            ),
            "",
            *wrapped(
                "Rules of severity `info` only report, unless you bind a policy to them. What is done about the others "
                "stands in [policies](../policies.md); by default it is only shown (see `act=`)."
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
        said = described_signal(name).partition("\n")[0]
        rows.append(f"| `{name}`{link} | {said} |")
    return ["## Signals", "", *wrapped(SIGNALS_OF_ONES_OWN), "", "| signal | |", "| --- | --- |", *rows, "", *TERMS]


def page(spec: RuleSpec) -> str:
    return "\n".join(
        [
            f"# {spec.name}",
            "",
            *wrapped(spec.meaning),
            "",
            *([*wrapped(f"By default: {spec.by_default}"), ""] if spec.by_default else []),
            "| severity | threshold | hold | clear | judged at |",
            "| --- | --- | --- | --- | --- |",
            f"| {spec.severity} | {spec.threshold:g} | {points(spec.hold)} | {spec.clear:g} | {POINTS[spec.judged]} |",
            "",
            *suspended(spec),
            f"## How it is computed: `{spec.signal}`",
            "",
            *formula(spec),
            "",
            *(["[Terms in the formulas](README.md#terms-in-the-formulas)", ""] if spec.signal not in MEASURED else []),
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
        lines.append("- for 20 steps after your own learning rate changed by a factor of 2 or more within 8 steps;")
    if spec.steady:
        lines.append("- while the learning rate is rising (a warm-up), or under a fifth of its highest value;")
    if spec.descent:
        lines.append("- for optimizers that work against each other (GAN, actor and critic);")
        lines.append(
            "- in reinforcement learning (see [policies](../policies.md)), unless you give it a table of its own."
        )
    if not lines:
        return []
    lines[-1] = lines[-1].rstrip(";.") + "."
    if len(lines) == 1:
        return [*wrapped(f"It is not judged {lines[0].removeprefix('- ')}"), ""]
    return ["It is not judged", "", *lines, ""]


def formula(spec: RuleSpec) -> list[str]:
    text = described_signal(spec.signal)
    return wrapped(text) if spec.signal in MEASURED else text.splitlines()


def described_signal(signal: str) -> str:
    """Its docstring, as Markdown: other signals by the names that rules use, and no place in the code."""
    if signal in MEASURED:
        return MEASURED[signal]
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
    return [*lines, "", *wrapped(defaults.REASONS[spec.name]), "", ACTIONS]


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_on_hyphens=False)


CHANGING = (
    "## Changing a rule, adding one",
    "",
    "In the TOML file (`--config`, `config=`) a table with the name of a shipped rule changes that rule: `threshold`,",
    "`hold`, `clear`, `severity`, or `enabled = false` to leave it out. A table with a new name adds a rule.",
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
    "`no_improvement` also takes `min_delta`: by how much a pass must be better than the best one, in the unit of the",
    "metric.",
    "",
    "The same in Python, where `signal` may also be a function of the loss of each step. It returns a number, or None",
    'for "no point":',
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
    'In the file such a function is written as `signal = "my_module:negative"`; Python must be able to import the',
    "module.",
    "",
)
ACTIONS = "What each action does: [policies](../policies.md#what-ships)."
SIGNALS_OF_ONES_OWN = (
    "The `signal=` of your own rule may be one of these, `logged:NAME` for a value that you log, or a function."
)
TERMS = (
    "## Terms in the formulas",
    "",
    "| term | means |",
    "| --- | --- |",
    "| fast, middle, slow average | moving averages of the training loss over about 5, 14 and 50 steps |",
    "| first | the mean loss of the first 8 steps, or the very first loss if that is lower |",
    "| best | the lowest middle average so far |",
    "| gain, improvement | first - best: how far the loss has come down |",
    "| swing | the usual distance of a loss from the fast average; the calm swing is that at the time of the best |",
    "| 4 calm swings | stand in for the gain while the loss has hardly come down |",
    "| reading | a step on which gradients are read; with default settings not every step, see `gradients_every` |",
    "| update ratio | by how much a step changes a layer, over the size of the layer (2-norms) |",
    "| loss at chance | the loss of the best answer that is the same for every input: of classes the entropy of the "
    "labels, of the mean squared error the variance of the targets |",
    "| fence | the start, a resume and every adjustment: what was seen before does not count any more |",
    "",
)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
