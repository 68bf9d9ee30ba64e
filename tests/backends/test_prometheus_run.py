"""A watched training, served for real, scraped by a real Prometheus."""

import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab import catalog
from trimtab.actions import ScaleLearningRate
from trimtab.policies import Policy
from trimtab.rules.rule import Rule

PATIENCE_S = 60.0

pytestmark = pytest.mark.servers

# Counters of what did not happen here have no series; nor have alert servers that nobody asked.
ABSENT = {catalog.ALERTS_RECEIVED.name, catalog.ALERT_SOURCE_LAST_SUCCESS.name}
ABSENT |= {catalog.DROPPED.name, catalog.BACKEND_ERRORS.name, catalog.NONFINITE.name, catalog.SKIPPED_STEPS.name}


def train(until, poison=False):
    """Train epoch by epoch until `until()` is true, which the tests ask Prometheus."""
    x = torch.randn(256, 8)
    data = TensorDataset(x, x[:, :3].argmax(1))
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    end = time.monotonic() + PATIENCE_S
    while not until() and time.monotonic() < end:
        model.train()
        optimizer.zero_grad()
        for count, (batch, labels) in enumerate(DataLoader(data, batch_size=16)):
            loss = nn.functional.cross_entropy(model(batch), labels) / 2
            (loss * float("nan") if poison else loss).backward()
            if count % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            for batch, labels in DataLoader(data, batch_size=64):
                nn.functional.cross_entropy(model(batch), labels)
        trimtab.log(perplexity=3.5, phase="validation")


def test_prometheus_answers_for_every_metric_of_a_run(tmp_path, prometheus):
    expected = {spec.name for spec in catalog.METRICS if spec.kind != "histogram"} - ABSENT
    expected |= {f"{catalog.STEP_DURATION.name}_{part}" for part in ("bucket", "count", "sum")}
    # A rule that always fires and a policy that answers it: adjustments and snapshots are metrics too.
    firing = Rule("always", signal=lambda loss: 1.0, threshold=0.5)
    policy = Policy(on="always", ladder=[ScaleLearningRate(0.5)])
    steering = {"act": "process", "rules": [firing], "policies": [policy], "gradients_every": 4}
    with trimtab.watch(run="real", directory=tmp_path, backends=["prometheus"], port=0, **steering) as run:
        ask = prometheus(run.addresses["prometheus"])
        train(until=lambda: expected <= ask.names('{run="real"}'))
        assert ask.names('{run="real"}') == expected
        steps, samples = (float(ask(f"trimtab_{name}_total")[0]["value"][1]) for name in ("steps", "samples"))
        assert samples == 32 * steps


def test_prometheus_sees_nan_as_nan_and_counts_it(tmp_path, prometheus):
    with trimtab.watch(run="nan", directory=tmp_path, backends=["prometheus"], port=0) as run:
        ask = prometheus(run.addresses["prometheus"])
        train(until=lambda: ask('trimtab_nonfinite_total{kind="loss"} > 1'), poison=True)
        assert ask('trimtab_nonfinite_total{kind="loss"} > 1')
        assert ask('trimtab_loss{phase="train"} != trimtab_loss{phase="train"}'), "NaN is stored as NaN"
