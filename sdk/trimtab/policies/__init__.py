"""What to do about a firing rule or an incoming alert: ladders, cooldowns, budgets, arbitration. Pure, in steps."""

from trimtab.policies.creeping import Creeping
from trimtab.policies.decisions import Decision
from trimtab.policies.engine import Engine
from trimtab.policies.evidence import Evidence
from trimtab.policies.policy import Policy

__all__ = ["Creeping", "Decision", "Engine", "Evidence", "Policy"]
