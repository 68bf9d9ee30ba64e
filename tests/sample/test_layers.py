import pytest
import torch

from trimtab.sample.layers import LAYER_CAP, LayerChoice


@pytest.fixture
def said():
    return []


@pytest.fixture
def choose(said):
    """`choose(patterns, names)`: the names that are shown, None for the others."""

    def choose(patterns, names):
        found = [(name, depth) for depth, name in enumerate(names)]
        choice = LayerChoice(patterns, lambda parameters: found, lambda kind, text: said.append(text))
        return choice.names("0", [torch.zeros(1) for _ in names])

    return choose


def test_every_layer_is_shown_by_default(choose, said):
    assert choose(None, ["a", "b"]) == ["a", "b"]
    assert said == []


def test_patterns_choose(choose, said):
    assert choose(["encoder.*", "*.bias"], ["encoder.w", "decoder.w", "decoder.bias"]) == [
        "encoder.w", None, "decoder.bias",
    ]  # fmt: skip
    assert said == []


def test_pattern_that_matches_nothing_is_told_with_what_there_is(choose, said):
    assert choose(["encodr.*"], ["encoder.w"]) == [None]
    (text,) = said
    assert "layers='encodr.*' matches no parameter" in text
    assert "encoder.w" in text


def test_layers_beyond_the_cap_are_left_out_evenly(choose, said):
    shown = choose(None, [f"layer.{i}" for i in range(3 * LAYER_CAP)])
    assert sum(name is not None for name in shown) == LAYER_CAP
    assert shown[0] == "layer.0"
    assert {i % 3 for i, name in enumerate(shown) if name is not None} == {0}
    assert f"at most {LAYER_CAP}" in said[0]


def test_cap_is_for_all_optimizers_together(said):
    found = []
    choice = LayerChoice(None, lambda parameters: found, lambda kind, text: said.append(text))
    for optimizer in ("0", "1"):
        found[:] = [(f"{optimizer}.{i}", i) for i in range(LAYER_CAP - 50)]
        choice.names(optimizer, [torch.zeros(1) for _ in found])
    assert len(choice.depths) == LAYER_CAP


def test_names_are_looked_up_again_only_when_the_parameters_change():
    asked = []
    parameters = [torch.zeros(1), torch.zeros(1)]

    def find(parameters):
        asked.append(len(parameters))
        return [(f"p{i}", i) for i, _ in enumerate(parameters)]

    choice = LayerChoice(None, find, lambda kind, text: None)
    for given in (parameters, parameters, parameters[:1], parameters[:1]):
        choice.names("0", given)
    assert asked == [2, 1]
