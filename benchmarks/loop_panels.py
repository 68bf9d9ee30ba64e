"""Whether each query of each dashboard panel is answered with data by a Prometheus that scraped a demo run."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from panel_queries import Asked, annotated, asked, choices
from results import Figure
from servers import Prometheus, free_port
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab.actions import ScaleLearningRate
from trimtab.policies import Policy
from trimtab.rules.rule import Rule

RULES = Path(__file__).parents[1] / "deploy" / "prometheus"
PATIENCE_S = 90.0

Answers = dict[Asked, list[dict[str, str]]]  # to each query the label sets of the series that hold a number


def measure(quick: bool) -> list[Figure]:
    """The demo trains until everything is answered, or patience ends; `quick` makes no difference."""
    with tempfile.TemporaryDirectory() as directory:
        answers = after_a_demo(Path(directory))
    panels, others = asked(), [*annotated(), *choices()]
    missing = [str(query) for query in [*panels, *others] if query not in answers]
    share = sum(query in answers for query in panels) / len(panels)
    named = {(query.dashboard, query.panel) for query in panels}
    note = f"{len(named)} panels; so are {sum(query in answers for query in others)} of {len(others)} queries of "
    note += "annotations and variables. The demo trains twice, in a dry run and acting, with a rule that always fires"
    return [
        Figure(
            "queries of dashboard panels answered with data",
            f"{100 * share:.0f} % of {len(panels)}",
            bar="100 %",
            met=share == 1.0,
            note="; ".join([note, *missing]),
        )
    ]


def after_a_demo(directory: Path) -> Answers:
    """Train the demo until a Prometheus beside it has answered everything, or for `PATIENCE_S` twice."""
    panels, others = asked(), [*annotated(), *choices()]
    answers: Answers = {}
    port = free_port()
    with Prometheus(
        directory / "prometheus", [f"http://127.0.0.1:{port}"], interval="500ms", rules=impatient(directory)
    ) as prometheus:

        def answered(queries: Sequence[Asked]) -> bool:
            answers.update((query, found) for query in queries if (found := _answer(prometheus, query)))
            return answers.keys() >= set(queries)

        # In a dry run nothing sets a fence: levels stay up, and alerts fire.
        first = [query for query in others if query.panel in ("Rules", "Alerts")]
        _demo(directory, port, False, lambda: answered(first))
        _demo(directory, port, "process", lambda: answered([q for q in [*panels, *others] if q not in answers]))
    return answers


def impatient(directory: Path) -> list[Path]:
    """The rules that ship, as files in which no alert waits before it fires."""
    files = []
    for shipped in sorted(RULES.glob("*.rules.yml")):
        files.append(directory / shipped.name)
        files[-1].write_text(re.sub(r"^ +for: .*\n", "", shipped.read_text(), flags=re.MULTILINE))
    return files


def _demo(directory: Path, port: int, act: Any, done: Callable[[], bool]) -> None:
    """Train again and again until `done()`. A rule that always fires brings adjustments about."""
    from trimtab.demo import train

    settings = {
        "rules": [Rule("always", signal=lambda loss: 1.0, threshold=0.5)],
        "policies": [Policy(on="always", ladder=[ScaleLearningRate(0.9)])],
        "backends": ["prometheus"],
        "port": port,
        "gradients_every": 1,
    }
    end = time.monotonic() + PATIENCE_S
    with trimtab.watch(run=f"demo-{act}".lower(), directory=directory, act=act, **settings):
        while time.monotonic() < end and not done():
            train.__wrapped__(epochs=2)  # each is judged by itself, and dead layers take 50 readings
            _accumulate()
            trimtab.log(perplexity=3.5, phase="validation")


def _accumulate() -> None:
    """Two batches a step, as the demo does not: for what is known only there."""
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for count, (inputs, wanted) in enumerate(DataLoader(TensorDataset(torch.randn(400, 4), torch.ones(400)), 8)):
        (torch.nn.functional.mse_loss(model(inputs).flatten(), wanted) / 2).backward()
        if count % 2:
            optimizer.step()
            optimizer.zero_grad()


def _answer(prometheus: Prometheus, query: Asked) -> list[dict[str, str]]:
    """The label sets of the series in the answer that hold a number somewhere."""
    with contextlib.suppress(OSError):
        found = prometheus(query.expr) if query.instant else prometheus.since_it_began(query.expr)
        values = [(each["metric"], [v for _, v in each.get("values") or [each["value"]]]) for each in found]
        return [metric for metric, texts in values if any(text not in ("NaN", "+Inf", "-Inf") for text in texts)]
    return []
