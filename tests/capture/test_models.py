"""The names of layers: the user's own."""

import gc

import pytest
import torch
from torch import nn

from trimtab import searches
from trimtab.capture.models import Models


class Wrapper(nn.Module):
    """Holds a model under the name that a wrapper of torch gives it."""

    def __init__(self, name, model):
        super().__init__()
        self.add_module(name, model)


class FromScratch(nn.Module):
    """Its weights are no parameters to torch."""

    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(2)
        self.weight = torch.zeros(2, 1, requires_grad=True)


def names_of(model, parameters=None):
    models = Models()
    parameters = list(model.parameters()) if parameters is None else parameters
    models.search(parameters)
    return models.names(parameters)


def test_names_and_places_are_the_models_own(model):
    assert names_of(model) == [("0.weight", 0), ("0.bias", 1), ("2.weight", 2), ("2.bias", 3)]


def test_place_is_the_models_order_whatever_the_order_of_the_groups(model):
    backwards = list(model.parameters())[::-1]
    assert names_of(model, backwards) == [("2.bias", 3), ("2.weight", 2), ("0.bias", 1), ("0.weight", 0)]


def test_names_do_not_tell_of_wrappers(model):
    wrapped = Wrapper("module", Wrapper("_orig_mod", model))
    assert [name for name, _ in names_of(wrapped)] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_names_do_not_tell_of_wrappers_inside(model):
    inner = nn.Sequential(
        Wrapper("_checkpoint_wrapped_module", nn.Linear(2, 2)), Wrapper("_fsdp_wrapped_module", model)
    )
    assert [name for name, _ in names_of(inner)][:3] == ["0.weight", "0.bias", "1.0.weight"]


def test_compiled_model_has_the_names_of_the_bare_one(model):
    compiled = torch.compile(model, backend="eager")
    assert [name for name, _ in names_of(compiled)] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_two_models_whose_parameters_share_names_are_told_apart():
    models = Models()
    twins = [nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 1)]
    names = []
    for twin in twins:
        models.search(twin.parameters())
        names += [name for name, _ in models.names(twin.parameters())]
    assert len(set(names)) == 6
    assert names[:4] == ["weight", "bias", "Linear.weight", "Linear.bias"]


def test_outermost_model_gives_the_names():
    whole = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 1)})
    parameters = list(whole["encoder"].parameters())
    assert [name for name, _ in names_of(whole, parameters)] == ["encoder.weight", "encoder.bias"]


def test_parameters_without_a_model_are_numbered():
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    assert names_of(None, parameters) == [("parameter.0", 0), ("parameter.1", 1)]


def test_shared_parameter_has_one_name():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert names_of(model) == [("0.weight", 0)]


def test_model_that_the_user_named_comes_first(model):
    models = Models()
    whole = nn.Sequential(model, nn.Linear(3, 1))
    models.add(model)
    models.search(whole.parameters())
    assert models.names(model.parameters())[0] == ("0.weight", 0)


def test_mode_is_that_of_the_model_within_what_wraps_it(model):
    models, wrapped = Models(), Wrapper("net", Wrapper("module", model))
    models.search(wrapped.parameters())
    assert not models.any_in_eval_mode()
    model.eval()
    assert wrapped.training
    assert models.any_in_eval_mode()
    wrapped.train()
    assert not models.any_in_eval_mode()
    wrapped.eval()
    assert models.any_in_eval_mode()


def test_mode_is_that_of_all_that_is_trained_by_several_optimizers(model):
    models, both = Models(), nn.ModuleDict({"generator": model, "discriminator": nn.Linear(2, 1)})
    for part in both.values():
        models.search(part.parameters())
    model.eval()
    assert not models.any_in_eval_mode()
    both.eval()
    assert models.any_in_eval_mode()


def test_mode_of_the_model_within_is_not_asked_for_what_is_trained_no_more(model):
    models, wrapped, other = Models(), Wrapper("net", model), nn.Linear(2, 1)
    models.search([*wrapped.parameters(), *other.parameters()])
    wrapped.eval()
    models.keep(other.parameters())
    assert not models.any_in_eval_mode()


def test_models_are_not_kept_alive(model):
    models = Models()
    local = nn.Linear(2, 1)
    models.search(local.parameters())
    local.eval()
    assert models.any_in_eval_mode()
    del local
    assert not models.any_in_eval_mode()


def test_search_runs_no_code_of_foreign_objects(model):
    class Touchy:
        @property
        def __class__(self):
            raise RuntimeError("do not touch")

    touchy = [Touchy()]
    assert len(names_of(model)) == 4
    assert touchy


def test_half_built_module_is_passed_over(model):
    half_built = nn.Linear.__new__(nn.Linear)
    assert len(names_of(model)) == 4
    assert half_built is not None


def test_search_among_new_objects_finds_a_new_model():
    old = nn.Linear(2, 1)
    gc.collect()
    new = nn.Linear(2, 1)
    models = Models()
    for model in (old, new):
        models.search(model.parameters(), everywhere=False)
    assert list(models.by_name().values()) == [new]


@pytest.mark.parametrize(("affordable_s", "name"), [(60.0, "weight"), (0.0, "parameter.0")])
def test_whole_process_is_searched_no_longer_than_is_affordable(watching, monkeypatch, affordable_s, name):
    monkeypatch.setattr(searches, "FIRST", 0)
    monkeypatch.setattr(searches, "FREE_S", affordable_s)
    monkeypatch.setattr(searches, "SHARE", 0.0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        model(torch.ones(1, 2)).sum().backward()
        gc.collect()
        optimizer.step()
    assert next(iter(seen.steps()[0].layers)) == name


def test_model_of_a_second_optimizer_is_found_however_long_the_first_search_took(watching, monkeypatch):
    monkeypatch.setattr(searches, "FREE_S", 0.0)
    monkeypatch.setattr(searches, "SHARE", 0.0)
    models = [nn.Linear(2, 1), nn.Linear(2, 1)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    gc.collect()
    with watching() as seen:
        for model, optimizer in zip(models, optimizers, strict=True):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert [next(iter(seen.steps(label)[0].layers)) for label in "01"] == ["weight", "Linear.weight"]


def test_models_of_one_class_are_numbered_whatever_begins_like_it():
    kinds = [type(name, (nn.Linear,), {}) for name in ("Net", "NetHead")]
    models, known = Models(), [kind(2, 2) for kind in (*kinds, *kinds, kinds[0])]
    for model in reversed(known):
        models.add(model)
    assert models.by_name() == dict(zip(("Net", "NetHead", "Net.1", "NetHead.1", "Net.2"), known, strict=True))


@pytest.mark.parametrize(("trained", "is_known"), [("weight", True), ("mean", False)])
def test_model_whose_weights_are_plain_tensors_is_known_by_those_that_want_a_gradient(trained, is_known):
    models, model = Models(), nn.Sequential(nn.Linear(3, 2), FromScratch())
    models.search([getattr(model[1], trained)])
    model.eval()
    assert models.any_in_eval_mode() is is_known
    assert models.names([model[1].weight]) == [("parameter.0", 0)]
