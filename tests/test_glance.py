# SPDX-License-Identifier: Apache-2.0
"""Which jobs of a large sweep are shown."""

from __future__ import annotations

import pytest

from farm.broker.views import JobState
from farm.glance import shown_first

STATES = {
    "a": JobState.DONE,
    "b": JobState.QUEUED,
    "c": JobState.FAILED,
    "d": JobState.RUNNING,
    "e": JobState.QUEUED,
    "f": JobState.DONE,
    "g": JobState.QUARANTINED,
}


@pytest.mark.parametrize(
    ("wanted", "limit", "shown"),
    [
        ([], None, "abcdefg"),
        ([], 7, "abcdefg"),
        ([], 5, "dcgbe"),
        ([], 1, "d"),
        ([JobState.QUEUED, JobState.FAILED], None, "bce"),
        ([JobState.QUEUED, JobState.FAILED], 2, "cb"),
        ([JobState.CANCELLED], 3, ""),
    ],
)
def test_what_is_at_work_and_what_went_wrong_come_first(wanted: list[JobState], limit: int | None, shown: str) -> None:
    assert shown_first(STATES, wanted, limit) == list(shown)


def test_every_state_has_its_place() -> None:
    states = {str(state): state for state in JobState}
    assert len(shown_first(states, limit=len(states) - 1)) == len(states) - 1
