"""What part this rank has in its run: it is the only one, adjusts together with the others, or can only watch."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer

from trimtab import facts
from trimtab.actuators.parts import owned_by
from trimtab.actuators.steering import Steering
from trimtab.guard import Guard
from trimtab.policies import Engine
from trimtab.sample.books import Books
from trimtab.steering.execution import Execution, Moment
from trimtab.steering.ranks import Ranks

UNANNOUNCED = (
    "There are {ranks} ranks, and this run began as if there were one: it is of rank {rank} alone. For one run of all, "
    "start them with `torchrun --nproc-per-node N -m trimtab run train.py`, or have the run begin after "
    "init_process_group."
)
ANEW = "Scales are not those of the run that is resumed: the ranks cannot agree on them. They begin anew, at 1."


class Membership:
    """Used by the controller, on the thread that trains.

    Args:
        place: the rank, and the number of ranks, as far as they are known when the run begins.
        usual_norm: of the gradients of an optimizer, by its label, as this rank knows it.
        acts: whether anything may come of a verdict but a word.
        resumes: whether the run goes on with one of before.
        replays: whether it repeats the adjustments of a record, which every rank does for itself.
        no_orders: why a person can have nothing done on this run but a pause; empty where it can.
    """

    def __init__(
        self,
        place: tuple[int, int],
        execution: Execution,
        engine: Engine,
        steering: Steering,
        books: Books,
        guard: Guard,
        say: Callable[[str, str], None],
        usual_norm: Callable[[str], float | None],
        *,
        acts: bool,
        resumes: bool,
        replays: bool,
        no_orders: str,
        found: Callable[[int], None],
    ) -> None:
        rank, world_size = place
        meets = (acts or resumes) and world_size > 1 and not replays
        self.acts = acts
        self.no_orders = no_orders
        self._to_meet = (
            Ranks(rank, world_size, execution, engine, guard, usual_norm, self._stand_down, acts=acts)
            if meets
            else None
        )
        self.ranks = self._to_meet if acts else None  # that everything is done together with
        self._execution = execution
        self._engine = engine
        self._steering = steering
        self._books = books
        self._say = say
        self._usual_norm = usual_norm
        self._replays = replays
        self._found = found
        self._is_alone = world_size == 1
        self._have_met = False  # all ranks, which then go on from the same scales

    @property
    def leads(self) -> bool:
        """Whether this rank decides."""
        return self.ranks is None or self.ranks.leads

    def usual_norm(self, label: str) -> float | None:
        """The norm that the gradients of an optimizer usually have, the same on all ranks; None if not known."""
        return self._usual_norm(label) if self.ranks is None else self.ranks.usual_norm(label)

    def met(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step for the first time: ranks meet before the first of all."""
        if self._to_meet is not None:
            self._meet(self._to_meet, optimizer)
        elif self._is_alone and (group := facts.group()) is not None:
            self._is_alone = False
            rank, ranks = group
            self._advise(UNANNOUNCED.format(rank=rank, ranks=ranks))
            self._found(ranks)

    def withdraw(self, step: int, reason: str, *, spares_persons: bool = False) -> None:
        """Do not do what waits after `step` steps, here or until all ranks hear of it: all, or what policies decided.

        To be called on every rank at the same step.
        """
        self._execution.withdraw(step, "refused", reason, spares_persons=spares_persons)
        if self.ranks is not None:
            self.ranks.withdraw(Moment.after(step), "refused", reason, spares_persons=spares_persons)

    def silence(self, step: int, reason: str) -> None:
        """Do not do what policies have decided and not done yet. What ranks have agreed on, all of them do."""
        if self.ranks is not None:
            self.ranks.withdraw(Moment.after(step), "silenced", reason, spares_persons=True)
        if self._execution.others is None:
            self._execution.withdraw(step, "silenced", reason, spares_persons=True)

    def _meet(self, ranks: Ranks, optimizer: Optimizer) -> None:
        """All go on from where rank 0 is: the log and the state of a resumed run may be whole there alone."""
        step = self._books.steps_written()
        begun = ranks.meet(owned_by(optimizer), {"step": step, "steering": self._steering.state_dict()})
        self._have_met = self._have_met or begun is not None
        if begun is not None and not ranks.leads:
            self._books.steps_before += begun["step"] - step
            self._steering.begin_anew()  # a disk of its own may have the state of another run
            self._steering.load_state_dict(begun["steering"])
            self._execution.steers = self._execution.steers or self._steering.steers

    def _advise(self, reason: str) -> None:
        """Others train the same weights, and hear nothing of what is done here."""
        if self.acts and not self._replays:
            self._stand_down(f"{reason} This is a dry run.")
            return
        self._say("ranks", reason)
        self._begin_anew()
        self.no_orders = reason

    def _stand_down(self, reason: str) -> None:
        """The ranks cannot adjust together: from here on this is a dry run."""
        self._begin_anew()
        if not self.acts:
            return
        self.acts, self.no_orders = False, reason
        self._say("act over ranks", reason)
        self._execution.others = None
        self._execution.withdraw(self._books.steps_written(), "refused", reason)
        self._engine.stand_down()

    def _begin_anew(self) -> None:
        """A resumed run, of which another rank may know other scales, or none: it may have a disk of its own."""
        if not self._have_met and self._steering.steers:
            self._steering.begin_anew()
            self._say("scales", ANEW)
