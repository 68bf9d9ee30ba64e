"""What counts as saved and named, and that faults, methods and healthy runs are what they are said to be."""

from __future__ import annotations

import math
import os
from unittest.mock import Mock

import pytest
import rescue
import rescue_others
import rescue_recipes as recipes
import rescue_scores as scores
import rescue_tables as tables
from rescue import REPORTED_SEEDS, TUNING_SEEDS
from rescue_cases import KINDS
from rescue_faults import DamagedState, GradientSpike, NanInBatch, Rate, WrongLabels
from rescue_healthy import healthy
from rescue_jobs import run
from rescue_loop import Fault, Method, train
from rescue_methods import Guard, KeepBest, Plateau, Tracing, stops_after
from rescue_ours import Ours
from rescue_recipes import Recipe
from rescue_sets import BARRED, OTHERS, Job, Set, find

import trimtab
from trimtab.catalog.rules import RULES

SHORT = recipes.MLP.but(epochs=4, steps=20)


def validation(step: int, loss: float, accuracy: float = 0.5) -> dict[str, float]:
    return {"step": step, "loss": loss, "accuracy": accuracy, "train_loss": loss}


def test_run_is_saved_within_five_percent_or_the_spread() -> None:
    assert scores.tolerance(0.9, [0.9, 0.89]) == pytest.approx(0.045)
    assert scores.tolerance(0.9, [0.9, 0.8]) == pytest.approx(0.1)
    assert scores.no_worse(0.86, 0.9, 0.045, "accuracy")
    assert not scores.no_worse(0.85, 0.9, 0.045, "accuracy")
    assert scores.no_worse(2.09, 2.0, 0.1, "loss")
    assert not scores.no_worse(2.11, 2.0, 0.1, "loss")


def test_score_that_is_no_number_is_never_saved() -> None:
    assert not scores.no_worse(math.nan, 2.0, 10.0, "loss")
    assert not scores.no_worse(math.inf, 2.0, 10.0, "loss")


def test_negative_loss_may_be_worse_by_five_percent_too() -> None:
    assert scores.no_worse(-1.91, -2.0, scores.tolerance(-2.0, [-2.0]), "loss")
    assert not scores.no_worse(-1.89, -2.0, scores.tolerance(-2.0, [-2.0]), "loss")


def test_interval_is_wilsons() -> None:
    low, high = scores.Share(9, 10).interval()
    assert (low, high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert scores.Share(0, 120).interval()[1] == pytest.approx(0.0310, abs=1e-4)


def test_fault_is_named_by_the_first_rule_meant_for_it_after_its_beginning() -> None:
    alerts = [
        {"rule": "loss_spike", "step": 90},
        {"rule": "overfitting", "step": 105},
        {"rule": "loss_spike", "step": 151},
    ]
    result = {"onset": 100, "alerts": alerts}
    assert scores.named_at(result, ["loss_spike"]) == 51
    assert not scores.is_named(result, ["loss_spike"])
    assert scores.is_named({**result, "onset": 101}, ["loss_spike"])
    assert scores.named_at(result, ["loss_diverged"]) is None


def test_overfitting_has_five_validations_after_the_best_to_be_named() -> None:
    losses = (3, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    bare = {"validations": [validation(10 * index, loss) for index, loss in enumerate(losses, 1)]}
    early, late = ({"onset": 0, "alerts": [{"rule": "overfitting", "step": step}]} for step in (70, 71))
    assert scores.is_named(early, ["overfitting"], bare)
    assert not scores.is_named(late, ["overfitting"], bare)


def test_raise_counts_only_within_its_bound() -> None:
    def result(*scales: float) -> dict[str, object]:
        steps = zip((1.0, *scales), scales, strict=False)
        change = {"outcome": "applied", "action": "scale_learning_rate"}
        pairs = [{"before": {"learning_rate_scale": a}, "after": {"learning_rate_scale": b}} for a, b in steps]
        return {"adjustments": [{**change, **pair} for pair in pairs]}

    assert scores.is_raised(result(3.0, 9.0))
    assert not scores.is_raised(result(3.0, 300.0))
    assert not scores.is_raised(result(0.5))


def test_best_weights_are_those_of_the_lowest_validation_loss() -> None:
    losses = (2.0, 1.0, math.nan, 1.5)
    result = {"measure": "accuracy", "validations": [validation(0, loss, 1 / (1 + loss)) for loss in losses]}
    assert scores.best_score(result) == 0.5
    assert scores.best_score(result, upto=1) == pytest.approx(1 / 3)


def test_early_stopping_is_lightnings() -> None:
    pytest.importorskip("lightning", reason="Lightning is not installed: pip install '.[test]'", exc_type=ImportError)
    assert stops_after([3.0, 2.0, 2.1, 2.2, 2.3, 1.0]) == 5
    assert stops_after([3.0, math.nan, 1.0]) == 2
    assert stops_after([3.0, 2.0, 1.0]) == 3


def test_same_seed_gives_the_same_run() -> None:
    first, second, other = (train(SHORT, seed, Fault(), Method()).validations for seed in (3, 3, 4))
    assert first == second != other


@pytest.mark.parametrize(
    "fault",
    [Rate(10, 100.0), NanInBatch(10), WrongLabels(10), GradientSpike(10, layer=1), DamagedState(10)],
    ids=lambda fault: type(fault).__name__,
)
def test_fault_changes_nothing_before_it_begins(fault: Fault) -> None:
    bare, faulty = Tracing(), Tracing()
    train(SHORT, 0, Fault(), bare)
    train(SHORT, 0, fault, faulty)
    assert faulty.steps["loss"][:10] == bare.steps["loss"][:10]
    assert faulty.steps["loss"][10:] != bare.steps["loss"][10:]


def test_guard_survives_a_nan_and_a_spike_that_end_the_bare_run() -> None:
    for fault in (NanInBatch(30), GradientSpike(30, layer=0)):
        guarded, bare = (train(SHORT, 0, fault, method).final for method in (Guard(), Method()))
        assert guarded.accuracy > bare.accuracy + 0.2


def test_keep_best_puts_the_best_weights_back() -> None:
    trained = train(SHORT, 0, Rate(50, 100.0), KeepBest())
    assert trained.final.loss == min(each.loss for each in trained.validations)
    assert trained.final.loss < trained.validations[-1].loss


def test_plateau_lowers_the_rate_although_a_schedule_writes_it() -> None:
    tracing = Plateau()
    for loss in (1.0, 1.0, 1.0):
        tracing._scheduler.step(loss)
    assert tracing.learning_rate() == pytest.approx(0.1)


def test_run_with_ours_that_does_nothing_is_the_bare_run() -> None:
    job = Job("", healthy()[0].variants[0].name, 0, "unwatched", healthy()[0].name)
    bare, ours = (run(Job(job.kind, job.recipe, job.seed, method, job.healthy)) for method in ("unwatched", "ours"))
    assert ours["adjustments"] == []
    assert ours["validations"] == bare["validations"]


def test_ours_ends_with_its_best_weights_and_those_that_the_loop_left_are_scored_too() -> None:
    trained = train(SHORT, 0, WrongLabels(45), Ours())
    assert trained.final is not None
    assert trained.last is not None
    assert trained.final.loss == min(each.loss for each in trained.validations)
    assert trained.last.loss == trained.validations[-1].loss > trained.final.loss


@pytest.mark.parametrize(("asked", "every"), [([], 1), (["--spaced"], None)])
def test_ours_reads_gradients_at_every_step_unless_it_is_spaced(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], every: int | None
) -> None:
    watched = Mock(wraps=trimtab.watch)
    monkeypatch.setattr(trimtab, "watch", watched)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(rescue, "train_all", lambda *_: train(SHORT, 0, Fault(), Ours()) and [])
    rescue.main(["--quick", "--only", "overfitting", *asked])
    assert watched.call_args.kwargs["gradients_every"] == every


def test_weights_that_the_loop_left_must_be_those_of_the_bare_run() -> None:
    common = {"healthy": "drops", "kind": "", "recipe": "mlp", "seed": 0, "measure": "accuracy"}
    bare = {**common, "method": "unwatched", "score": 0.9, "validations": [validation(10, 1.0)]}
    ours = {**bare, "method": "ours", "last": 0.9, "score": 0.91}
    assert (tables.acted_on([bare, ours], "ours"), tables.made_worse([bare, ours], "ours")) == (0, 0)
    ours["last"] = 0.8
    assert (tables.acted_on([bare, ours], "ours"), tables.made_worse([bare, ours], "ours")) == (1, 1)


@pytest.mark.parametrize("chosen", [BARRED, OTHERS], ids=["barred", "others"])
def test_every_kind_of_fault_has_two_models_and_rules_that_exist(chosen: Set) -> None:
    for kind in chosen.kinds:
        assert len({case.recipe.name for case in kind.cases}) >= 2
        assert kind.rules
        assert RULES.keys() >= set(kind.rules)


@pytest.mark.parametrize("chosen", [BARRED, OTHERS], ids=["barred", "others"])
def test_there_are_enough_healthy_runs(chosen: Set) -> None:
    runs = [recipe for each in chosen.healthy() for recipe in each.variants]
    assert min(chosen.seeds, 2) * len(runs) >= 120


def test_no_two_runs_have_one_name() -> None:
    sets = (BARRED, OTHERS)
    names = [(kind.name, case.recipe.name) for each in sets for kind in each.kinds for case in kind.cases]
    names += [(sort.name, recipe.name) for each in sets for sort in each.healthy() for recipe in sort.variants]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("recipe", rescue_others.ALL, ids=lambda recipe: recipe.name)
def test_other_models_learn(recipe: Recipe) -> None:
    short = recipe.but(epochs=2, steps=8, schedule=recipes.constant)
    learned, stood = (train(short, 0, fault, Method()).validations for fault in (Fault(), Rate(0, 0.0)))
    assert learned[1].train_loss < stood[1].train_loss


def test_nothing_is_tuned_on_the_others() -> None:
    with pytest.raises(SystemExit):
        rescue.options_of(["--others", "--tuning"])


def test_tuning_and_reporting_share_no_seed_and_tuning_lacks_the_kinds_held_out() -> None:
    assert not set(TUNING_SEEDS) & set(REPORTED_SEEDS)
    options = rescue.options_of(["--tuning"])
    kinds = {job.kind for job in rescue.jobs_of(options)}
    assert kinds.isdisjoint(kind.name for kind in KINDS if kind.held_out)
    assert len(kinds) > 5


def test_fault_begins_at_another_step_for_another_seed() -> None:
    kind = next(kind for kind in KINDS if kind.name == "poisoned batch")
    onsets = {find(Job(kind.name, kind.cases[0].recipe.name, seed, "unwatched"))[1].onset for seed in range(3)}
    assert len(onsets) == 3


def test_healthy_run_is_made_worse_beyond_the_tolerance_alone() -> None:
    common = {"healthy": "drops", "kind": "", "recipe": "mlp", "seed": 0, "measure": "accuracy"}
    results = [{**common, "method": "unwatched", "score": 0.9}, {**common, "method": "ours", "score": 0.86}]
    assert tables.made_worse(results, "ours") == 0
    results[1]["score"] = 0.84
    assert tables.made_worse(results, "ours") == 1


def test_run_that_ended_in_an_error_is_acted_on_and_worse() -> None:
    common = {"healthy": "drops", "kind": "", "recipe": "mlp", "seed": 0, "measure": "accuracy"}
    bare = {**common, "method": "unwatched", "score": 0.9, "validations": [validation(10, 1.0)]}
    results = [bare, {**common, "method": "ours", "error": "killed"}]
    assert (tables.acted_on(results, "ours"), tables.made_worse(results, "ours")) == (1, 1)


def test_kind_that_is_not_there_is_refused() -> None:
    with pytest.raises(SystemExit):
        rescue.main(["--only", "nonsense"])
