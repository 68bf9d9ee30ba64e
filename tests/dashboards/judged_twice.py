"""What a run says of itself, and what Prometheus says of it: the rules that fired, and how often each began to."""

from collections import Counter

from trimtab.types import Alert

PAST = "10m"


def in_process(backend):
    """Rule to episodes, as the run judged itself."""
    return dict(Counter(alert.rule for alert in backend.of(Alert) if alert.state == "firing"))


def counted(ask, run):
    """Rule to episodes, as the run's counter has it at the server."""
    answer = ask(f'last_over_time(trimtab_rule_fired_total{{run="{run}"}}[{PAST}])')
    return {each["metric"]["rule"]: int(each["value"][1]) for each in answer}


def alerted(ask, run):
    """Rule to how often the acting alert about it began, each `run_id` on its own: each beginning has its own time."""
    series = ask(f'ALERTS_FOR_STATE{{run="{run}", purpose="act"}}[{PAST}]')
    begun = Counter()
    for each in series:
        begun[each["metric"]["rule"]] += len({value for _, value in each["values"]})
    return dict(begun)


def firing(ask, run):
    """The rules about which an acting alert fires now."""
    return {each["metric"]["rule"] for each in ask(f'ALERTS{{run="{run}", purpose="act", alertstate="firing"}}')}
