"""Chooses what to do about firing rules and incoming alerts. Touches nothing: what it decides, others carry out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trimtab.actions import Halt
from trimtab.policies.accounts import FAILURES, Accounts, Key, meets
from trimtab.policies.causes import CHANGED, HARMFUL, Causes, is_moving
from trimtab.policies.creeping import Creeping
from trimtab.policies.decisions import Decision
from trimtab.policies.evidence import Evidence
from trimtab.policies.policy import Policy, Rung, halts, measured, momentary, rate_raise
from trimtab.policies.rates import Rates
from trimtab.types import Act, AlertSource, Outcome, Severity, Verdict

NOTHING_MORE = Evidence()

_RANK: Mapping[Severity, int] = {"critical": 0, "warning": 1, "info": 2}


class Engine:
    """Cooldowns, budgets, ladders, arbitration and authority of all policies of a run.

    At most one adjustment is under way for each optimizer: the most severe rule has it, among equals the policy that
    stands first. Within the cooldown of any adjustment of an optimizer only critical rules may adjust it again. An
    episode that has to wait is answered as soon as it may, if it is still open then. One that was not answered, since
    its trouble had passed by itself, is answered where that returns.

    Args:
        policies: in the order of their precedence, one for each rule; see `policy.check`.
        act: False for a dry run, in which budgets, cooldowns and ladders move as if everything had been done;
            "process", "alerts", or True for both.
        silenced: whether somebody silenced a rule, by its name.
        evidence: what is known of the run besides which rules fire.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        act: Act = False,
        silenced: Callable[[str], bool] = lambda rule: False,
        evidence: Evidence = NOTHING_MORE,
    ) -> None:
        self.policies = tuple(policies)
        self.paused = False  # by a person: nothing is adjusted until they resume
        self._order = {policy.on: at for at, policy in enumerate(self.policies)}
        self._act = act
        self._silenced = silenced
        self._evidence = evidence
        self._causes = Causes()
        self._accounts = Accounts()
        self._rates = Rates()
        self._open: dict[Key, Verdict] = {}
        self._newest: dict[Key, Verdict] = {}  # since the fence; alerts may come when the episode is over
        self._heard_at: dict[Key, int] = {}
        self._told: dict[Key, int] = {}  # rule: the last episode of which it was said why nothing was done
        self._under_way: set[str] = set()  # optimizers
        self._step = 0
        self._stepping: str | None = None
        self._fresh: dict[Key, int] = {}  # rules that began to fire at this judgement, and at which step of it
        self._gap = 1  # steps between two judgements
        self._attempts: Counter[str] = Counter()  # optimizer: judgements of this very step

    def decide(
        self, verdicts: Iterable[Verdict], step: int, *, healthy: Collection[str] = (), stepping: str | None = None
    ) -> list[Decision]:
        """What to do after one judgement. `step` is the one about to be applied, `healthy` names optimizers.

        `stepping` is whose step it is, empty between steps: episodes of other optimizers wait for their own turn, when
        it is known whether they are still in trouble.

        Call it at every judgement, also without verdicts: an episode may have waited for a cooldown, and a lowered rate
        creeps back. Costs 1 us when nothing is the matter, 3 while a lowered rate comes back.
        """
        passed = step - self._step
        if passed > 0:
            self._gap, self._step = passed, step
            self._attempts.clear()
        self._attempts[stepping or ""] += 1
        self._stepping = stepping
        self._fresh.clear()
        over = [found for verdict in verdicts if (found := self._hear(verdict, step)) is not None]
        if self._told:
            over += self._returned()
        waiting = [*self._open.values(), *over] if over else self._open.values()
        decisions = self._choose(waiting, "process", step) if waiting else []
        return decisions + self._creep(step, healthy) if healthy and self._rates else decisions

    def alerted(self, rule: str, step: int, *, source: AlertSource, verdict: Verdict | None = None) -> list[Decision]:
        """What to do about an accepted alert: `rule` is that of ours which it is about.

        For an alert bound by name `rule` is `alert:NAME`, and `verdict` describes it, numbered by whoever took it in.
        Returns nothing when the episode has been acted on, or has to wait: ask again while the alert goes on.
        """
        self._stepping = None
        if verdict is not None:
            self._mind(verdict, step)
            return self._choose([verdict], source, step)
        return self._choose([v for (name, _), v in self._newest.items() if name == rule], source, step)

    def episode(self, rule: str) -> int:
        """The newest episode of `rule` since the fence, of any optimizer; 0 where there is none."""
        return max((v.episode for (name, _), v in self._newest.items() if name == rule), default=0)

    def settle(
        self, decision: Decision, outcomes: Sequence[Outcome], step: int, *, went_back: bool = False
    ) -> Decision | None:
        """How the actions of a decision went, one outcome each; returns what to try instead, or None.

        `went_back`: earlier weights were restored. Of a rung that goes back and lowers the rate one may be refused.

        A rung counts as applied when one of its actions was. When all were refused the next rung is tried, but not one
        that halts: a run is not ended because a snapshot was missing.
        """
        self._is_under_way_no_more(decision)
        self._causes.settled(decision, step, went_back=went_back)
        policy = self._policy(decision.rule)
        if policy is None:
            return None
        if "failed" in outcomes:
            self._accounts.failures[policy.name] += 1
        if "applied" in outcomes:
            self._accounts.done(policy, decision.optimizer, decision.rung, step, decision.since)
            if not momentary(decision.actions):
                self.fence(decision.optimizer or None)
            return None
        following = None if "failed" in outcomes else self._after_refusal(policy, decision, step)
        if following is not None:
            self._under_way.add(decision.optimizer)
            return following
        self._accounts.cool(policy, decision.optimizer, step)
        return None

    def disabled(self, rule: str) -> bool:
        """Whether the policy of `rule` does nothing any more, since its actions raised too often."""
        policy = self._policy(rule)
        return policy is not None and self._accounts.failures[policy.name] >= FAILURES

    def stand_down(self) -> None:
        """Nothing can be adjusted any more: from here on this is a dry run."""
        self._act = False
        self._under_way.clear()

    def withdraw(self, decision: Decision) -> None:
        """A decision will not be carried out. Its episode may be answered anew, if it is still open."""
        self._is_under_way_no_more(decision)
        key = (decision.rule, decision.optimizer)
        if decision.episode is not None and self._accounts.acted.get(key) == decision.episode:
            self._accounts.acted[key] = decision.episode - 1

    def _is_under_way_no_more(self, decision: Decision) -> None:
        """What a person has done never was: a policy's may still wait for its moment."""
        if not decision.by_person:
            self._under_way.discard(decision.optimizer)

    def fence(self, optimizer: str | None = None) -> None:
        """What was seen before is no evidence any more, of one optimizer, or (None) of all and the run as a whole.

        As in the judge, which goes on with an episode of the run: that waits for its turn, since no other would begin.
        """
        for key in [key for key in self._newest if optimizer is None or key[1] == optimizer]:
            del self._newest[key]
            self._open.pop(key, None)

    def begin_anew(self, optimizer: str) -> None:
        """Another model is trained under this label: ladders, budgets and cooldowns are those of a new run."""
        self._accounts.begin_anew(optimizer)
        self._causes.begin_anew(optimizer)
        self._rates.begin_anew(optimizer)

    def scaled(self, optimizer: str, scale: float, *, by_person: bool = False) -> None:
        """The learning rate's scale of one optimizer was set. A person's choice is not crept away from."""
        self._rates.set(optimizer, scale, by_person=by_person)

    def rate(self, optimizer: str) -> Creeping | None:
        """How its scale stands, for `put_rate_back`."""
        return self._rates.creeping(optimizer)

    def put_rate_back(self, optimizer: str, creeping: Creeping) -> None:
        """It trains the model again that it trained when its scale stood so."""
        self._rates.put_back(optimizer, creeping)

    def unscaled(self, optimizer: str) -> None:
        """Its scale is 1 again, and there is nothing that it was, or may come, back from: the optimizer is another."""
        self._rates.forget(optimizer)

    def budgets(self) -> dict[str, int]:
        """Adjustments left, by policy."""
        return {policy.name: self._accounts.remaining(policy) for policy in self.policies}

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, in plain values that JSON holds."""
        return {
            "paused": self.paused,
            "accounts": self._accounts.state(),
            "rates": self._rates.state(),
            "causes": self._causes.state(),
            "step": self._step,
            "gap": self._gap,
        }

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """Go on from `state` after `step` steps, which may be counted anew: cooldowns are as long as they were.

        Open episodes are not part of it: a resumed run begins with a fence.
        """
        ahead = max(int(state["step"]) - step, 0)
        self.paused = bool(state["paused"])
        self._accounts = Accounts.restore(state["accounts"], ahead)
        self._rates = Rates.restore(state["rates"], ahead)
        self._causes = Causes.restore(state.get("causes", {}))
        self._step, self._gap = int(state["step"]) - ahead, max(int(state["gap"]), 1)
        self._under_way.clear()
        self.fence()

    @property
    def _acts(self) -> bool:
        """Whether what is decided may be carried out: this is no dry run, and nobody has paused the run."""
        return self._act is not False and not self.paused

    def precedence(self, rule: str, severity: Severity) -> tuple[int, int]:
        """Sorts rules by whose turn it is: the most severe first, among equals that of the first policy."""
        return _RANK[severity], self._order.get(rule, len(self._order))

    def _policy(self, rule: str) -> Policy | None:
        at = self._order.get(rule)
        return None if at is None else self.policies[at]

    def _hear(self, verdict: Verdict, step: int) -> Verdict | None:
        """Returns the verdict of an episode that began and ended among the steps of this judgement.

        It is answered as it would have been at its own step, but for first aid, which is too late then.
        """
        if verdict.state == "resolved":
            if verdict.severity != "info":
                self._rates.trouble(verdict.optimizer, step, lowers=False)
            over = self._open.pop(verdict.key, None)
            policy = self._policy(verdict.rule)
            return over if verdict.key in self._fresh and policy is not None and not policy.first_aid else None
        self._mind(verdict, step)
        self._fresh[verdict.key] = verdict.step
        self._open[verdict.key] = self._newest[verdict.key] = verdict
        return None

    def _returned(self) -> list[Verdict]:
        """Episodes that ended, and of which it was said why nothing was done, where that is so no longer."""
        return [
            verdict
            for key, verdict in self._newest.items()
            if key not in self._open and self._told.get(key) == verdict.episode and self._evidence.has_returned(*key)
        ]

    def _mind(self, verdict: Verdict, step: int) -> None:
        """Something is the matter, whatever is done about it."""
        self._heard_at[verdict.key] = step
        if verdict.severity != "info":
            policy = self._policy(verdict.rule)
            self._rates.trouble(verdict.optimizer, step, lowers=policy is not None and policy.lowers)

    def _choose(self, verdicts: Iterable[Verdict], source: AlertSource, step: int) -> list[Decision]:
        origin = "process" if source == "process" else "alerts"
        if self._act not in (False, True, origin):
            return []
        decisions: list[Decision] = []
        ordered = sorted(verdicts, key=self._precedence)
        for verdict in ordered:
            policy = self._policy(verdict.rule)
            if policy is not None and policy.goes_back:
                self._causes.hear(verdict, is_answered=False, were_good=self._evidence.were_good(verdict.optimizer))
        for verdict in ordered:
            policy = self._policy(verdict.rule)
            if self._stepping is not None and verdict.optimizer not in ("", self._stepping):
                continue
            if policy is None or any(meets(verdict.optimizer, other) for other in self._under_way):
                continue
            decision = self._answer(policy, verdict, source, step)
            if decision is not None:
                decisions.append(decision)
        for decision in decisions:
            if decision.outcome == "dry_run":
                self._under_way.discard(decision.optimizer)
        return decisions

    def _precedence(self, verdict: Verdict) -> tuple[int, int, int, str]:
        """Of steps that are judged together what showed first has the turn, where its answer undoes those after it."""
        began, policy = self._fresh.get(verdict.key), self._policy(verdict.rule)
        behind = 0
        if began is not None:
            last = began if policy is not None and policy.goes_back else max(self._fresh.values())
            behind = last - min(self._fresh.values())
        return behind, *self.precedence(verdict.rule, verdict.severity), verdict.optimizer

    def _answer(self, policy: Policy, verdict: Verdict, source: AlertSource, step: int) -> Decision | None:
        is_answered = verdict.episode <= self._accounts.acted.get(verdict.key, 0)
        if is_answered or self._accounts.over(policy, verdict.optimizer):
            return None
        if policy.goes_back:
            moves = is_moving(self._rates.left(verdict.optimizer), self._evidence.strides(policy.on, verdict.optimizer))
            were_good = self._evidence.were_good(verdict.optimizer)
            self._causes.hear(verdict, is_answered=True, moves=moves, were_good=were_good)
            if were_good and self._causes.is_too_soon(verdict):
                return None
        doubted = (policy.goes_back or policy.lowers) and self._causes.doubted(verdict)
        if doubted and not self._evidence.is_harmful(verdict.optimizer):
            return self._give_back(policy, verdict, source, step)
        rung = self._rung(policy, verdict, step, late=source != "process")
        if rung is None:
            return None
        ends = doubted and policy.goes_back and halts(policy.rungs[-1])  # going back and lower rates are of no use
        rung = len(policy.rungs) - 1 if ends else rung
        decision = self._decision(policy, verdict, source, step, rung)
        if ends:
            decision = replace(decision, actions=_because(HARMFUL, decision.actions))
        veto = self._veto(policy, rung, verdict)
        if veto is not None:
            outcome, reason = veto
            return None if self._is_told(verdict) else replace(decision, outcome=outcome, reason=reason)
        if not momentary(decision.actions):
            self._accounts.acted[verdict.key] = verdict.episode
        self._under_way.add(verdict.optimizer)
        if self._act is False:
            self._accounts.done(policy, decision.optimizer, decision.rung, step, decision.since)
            left = self._accounts.remaining(policy)
            return replace(decision, outcome="dry_run", budget_remaining=left)
        return decision

    def _give_back(self, policy: Policy, verdict: Verdict, source: AlertSource, step: int) -> Decision | None:
        """Undo what the rate was lowered by, or else say once in each episode why nothing is done."""
        may_act = self._acts and not self._silenced(verdict.rule)
        decision = self._rates.give_back(verdict, step) if may_act else None
        is_told = self._is_told(verdict)
        if decision is not None:
            self._under_way.add(verdict.optimizer)
            self._causes.gave_back(verdict.optimizer)
        elif not is_told:
            decision = self._decision(policy, verdict, source, step, policy.first_aid)
            return replace(decision, outcome="refused", reason=CHANGED)
        return decision

    def _is_told(self, verdict: Verdict) -> bool:
        """Whether it was said in this episode before why nothing is done. It is from now on."""
        before, self._told[verdict.key] = self._told.get(verdict.key), verdict.episode
        return before == verdict.episode

    def _decision(self, policy: Policy, verdict: Verdict, source: AlertSource, step: int, rung: int) -> Decision:
        return Decision(
            policy=policy.name,
            rule=verdict.rule,
            optimizer=verdict.optimizer,
            episode=verdict.episode,
            source=source,
            step=step,
            since=verdict.since,
            rung=rung,
            actions=self._actions(policy, rung, verdict.optimizer),
            reason=f"{verdict.rule} at {verdict.level:.3g} times its threshold, since step {verdict.since}",
            budget_remaining=self._left(policy, rung),
        )

    def _actions(self, policy: Policy, rung: int, optimizer: str) -> Rung:
        return measured(policy.rungs[rung], self._evidence.strides(policy.on, optimizer), self._causes.older(optimizer))

    def _rung(self, policy: Policy, verdict: Verdict, step: int, *, late: bool) -> int | None:
        """The rung whose turn it is, or None when nothing can be done now. What is late is no first aid any more."""
        aided, lasting = self._accounts.position(policy, verdict.optimizer, step, verdict.since)
        if policy.first_aid and not late and not self._needs_aid(verdict):
            return None
        is_news = self._heard_at[verdict.key] == step
        late = late or (verdict.step < step if is_news else self._gap > 1)
        if aided < policy.first_aid and not late:
            return aided
        if lasting < policy.first_aid:
            return None if late else lasting
        exhausted = self._accounts.remaining(policy) == 0
        left_out = max(self._attempts[verdict.optimizer] - 1, 0)  # which do not count as steps, and yet pass
        hindered = self._hindered(policy, lasting, verdict.severity, verdict.optimizer, step + left_out)
        if (exhausted or hindered) and policy.first_aid and not late:
            return policy.first_aid - 1
        return lasting if exhausted or not hindered else None

    def _needs_aid(self, verdict: Verdict) -> bool:
        """Whether this step is a bad one: an episode goes on for a while after the last of those."""
        return verdict.key in self._fresh or self._evidence.level(*verdict.key) >= 1.0

    def _hindered(self, policy: Policy, rung: int, severity: Severity, optimizer: str, step: int) -> bool:
        if self._accounts.waiting(policy, optimizer, step, critical=severity == "critical"):
            return True
        factor = rate_raise(policy.rungs[rung])
        if factor <= 1:
            return False
        return not (self._evidence.is_slow(policy.on, optimizer) and self._rates.may_raise(optimizer, factor, step))

    def _veto(self, policy: Policy, rung: int, verdict: Verdict) -> tuple[Outcome, str] | None:
        if self.paused:
            return "silenced", "paused by a person"
        if self._silenced(verdict.rule):
            return "silenced", f"{verdict.rule} is silenced at the alert server"
        if why := self._evidence.misleads(verdict.rule, verdict.optimizer):
            return "refused", why
        if self._accounts.remaining(policy) == 0 and rung >= policy.first_aid:
            return "refused", f"the budget of {policy.budget} adjustments is used up"
        return None

    def _after_refusal(self, policy: Policy, decision: Decision, step: int) -> Decision | None:
        if self._act is False:  # ranks have parted over this very decision
            return None
        rung = decision.rung + 1
        if rung >= len(policy.rungs) or halts(policy.rungs[rung]) or self._accounts.remaining(policy) == 0:
            return None
        if momentary(policy.rungs[rung]) and step > decision.step:
            return None
        self._accounts.acted[decision.rule, decision.optimizer] = decision.episode or 0
        return replace(
            decision,
            rung=rung,
            actions=self._actions(policy, rung, decision.optimizer),
            reason=f"{decision.reason}; the rung before was refused",
            budget_remaining=self._left(policy, rung),
        )

    def _left(self, policy: Policy, rung: int) -> int:
        """Of the budget once the rung is carried out; first aid is free."""
        return max(self._accounts.remaining(policy) - (rung >= policy.first_aid), 0)

    def _creep(self, step: int, healthy: Collection[str]) -> list[Decision]:
        if not self._acts:
            return []
        free = [o for o in healthy if not any(meets(o, other) for other in self._under_way)]
        decisions = list(self._rates.healthy(free, step, self._evidence.is_worse))
        self._under_way.update(decision.optimizer for decision in decisions)
        return decisions


def _because(reason: str, rung: Rung) -> Rung:
    """The rung, with `reason` for its halt."""
    return tuple(replace(action, reason=reason) if isinstance(action, Halt) else action for action in rung)
