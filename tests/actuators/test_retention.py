"""Which of several snapshots goes when there is no room."""

import pytest

from trimtab.actuators.retention import Snapshot, most_dispensable


@pytest.mark.parametrize(
    ("steps", "first", "best", "goes"),
    [
        ([0, 10, 11, 12], 0, None, 11),  # 10 leaves a gap of 11 in 13 steps, 11 one of 2 in 3
        ([0, 10, 20, 21], 0, None, 10),
        ([0, 10, 11, 12], 0, 11, 10),
        ([10, 11, 12], None, None, 10),
        ([0, 12], 0, None, 12),
        ([0], 0, None, 0),
        ([0, 12], 0, 12, 0),
        ([12], None, 12, None),
    ],
)
def test_snapshot_that_is_missed_least_goes(steps, first, best, goes):
    kept = {step: Snapshot(step, own=None) for step in steps}
    found = most_dispensable(list(kept.values()), kept.get(first), kept.get(best))
    assert found is kept.get(goes)
