import lightning
import pytest
from transformers.trainer_callback import TrainerControl

from trimtab.actuators.halting import PATIENCE_BACKWARDS, Halting
from trimtab.errors import HaltTraining


@pytest.fixture
def said():
    return {}


def halting(on_halt, said):
    return Halting(on_halt, said.__setitem__, lambda call: None)


def test_a_loop_that_asks_is_told_to_stop(said):
    halt = halting("ask", said)
    assert not halt.asked()
    halt.request("loss_diverged")
    assert halt.asked()
    assert not said


def test_a_halt_that_nobody_hears_is_advice_and_says_so(said):
    halt = halting("ask", said)
    halt.request("loss_diverged")
    assert "nobody asks" in said["halt is advice"]


def test_unwinding_raises_at_the_next_backward_where_nobody_asks(said):
    halt = halting("unwind", said)
    halt.request("loss_diverged")
    with pytest.raises(HaltTraining, match="loss_diverged"):
        halt.before_backward()


def test_unwinding_waits_for_a_loop_that_asks(said):
    halt = halting("unwind", said)
    halt.asked()
    halt.request("loss_diverged")
    for _ in range(PATIENCE_BACKWARDS):
        halt.before_backward()
    with pytest.raises(HaltTraining):
        halt.before_backward()


def test_lightning_is_stopped_by_its_own_flag(said):
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    halting("ask", said).request("loss_diverged")
    assert trainer.should_stop
    assert not said


def test_transformers_is_stopped_by_its_own_flag(said):
    control = TrainerControl()
    halting("unwind", said).request("loss_diverged")
    assert control.should_training_stop


def test_halting_is_no_exception_that_a_loop_would_swallow():
    assert not issubclass(HaltTraining, Exception)
