# SPDX-License-Identifier: Apache-2.0
"""The course of a device's canaries: baseline, steady, unconfirmed, shifted, and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from farm.canary import BASELINE, NO_VERDICT, SHIFTED, STEADY, UNCONFIRMED, CanaryState
from farm.canary.series import Point, assess
from farm.contract.codec import from_json, to_json

OLD, NEW = {"onnxruntime": "1.26"}, {"onnxruntime": "1.27"}


def points(*times: float | str, software: dict[str, str] | None = None, first: int = 0, **more: Any) -> list[Point]:
    """One canary a day; a text is one with that problem."""
    return [
        Point(
            f"2026-03-{day:02}T04:00:00+00:00",
            f"run-{day}",
            None if isinstance(time, str) else time,
            OLD if software is None else software,
            problem=time if isinstance(time, str) else "",
            **more,
        )
        for day, time in enumerate(times, first + 1)
    ]


CALM = (10.0, 10.05, 9.95, 10.02, 9.98)


def said(*found: list[Point]) -> CanaryState:
    return assess([point for each in found for point in each], pool=0.005)


def test_nothing_has_no_verdict() -> None:
    state = said([])
    assert (state.verdict, state.summary, state.last_at) == (NO_VERDICT, "no verdict", None)


def test_the_first_ones_make_the_baseline() -> None:
    verdicts = [said(points(*CALM[:n])).verdict for n in range(1, 6)]
    assert verdicts == [BASELINE] * 5
    assert said(points(*CALM[:2])).summary == "baseline, 2 of 5"


def test_one_like_the_others_is_steady() -> None:
    state = said(points(*CALM, 10.01))
    assert (state.verdict, state.points, state.steady_at) == (STEADY, 6, "2026-03-06T04:00:00+00:00")
    assert state.summary.startswith("steady, 0.")
    assert state.evidence == ""


def test_one_out_of_the_band_marks_nothing_and_is_kept_if_the_next_is_steady() -> None:
    assert said(points(*CALM, 11.0)).verdict == UNCONFIRMED
    state = said(points(*CALM, 11.0, 10.0))
    assert (state.verdict, state.points) == (STEADY, 7)


def test_two_on_one_side_mark_the_device_since_the_first() -> None:
    state = said(points(*CALM, 10.0, 10.9, 11.0))
    assert (state.verdict, state.since) == (SHIFTED, "2026-03-07T04:00:00+00:00")
    assert state.steady_at == "2026-03-06T04:00:00+00:00"
    assert state.summary == "shifted +10.0 % since 2026-03-07 04:00"
    assert "11 ms against 10 ms of 6 canaries before, +10.0 %" in state.evidence
    assert "last steady on 2026-03-06 04:00" in state.doubt


def test_two_on_different_sides_mark_nothing() -> None:
    assert said(points(*CALM, 11.0, 9.0)).verdict == UNCONFIRMED
    assert said(points(*CALM, 11.0, 9.0, 9.05)).since == "2026-03-07T04:00:00+00:00"


def test_a_shift_changes_no_baseline_however_long_it_lasts_and_a_steady_canary_ends_it() -> None:
    state = said(points(*CALM, *[11.0] * 20))
    assert (state.verdict, state.centre_ms, state.points) == (SHIFTED, said(points(*CALM, 11.0)).centre_ms, 5)
    assert said(points(*CALM, *[11.0] * 20, 10.0)).verdict == STEADY


def test_a_disturbed_or_failed_canary_changes_nothing_but_what_is_said_of_the_last_run() -> None:
    before, after = said(points(*CALM, 10.0)), said(points(*CALM, 10.0, "disturbed: others at work"))
    assert after.problem == "disturbed: others at work"
    assert replace(after, problem="", last_at=before.last_at, run_id=before.run_id) == before
    assert said(points(*CALM, 11.0, "failed: no disk", 11.0)).verdict == SHIFTED


def test_new_software_begins_a_new_series_and_old_software_goes_on_with_the_old_one() -> None:
    new = points(20.0, 20.1, software=NEW, first=6)
    state = said(points(*CALM, 10.0), new)
    assert (state.verdict, state.points, state.note) == (BASELINE, 2, "new series: onnxruntime 1.26 -> 1.27")
    assert said(points(*CALM, 10.0), new, points(10.0, first=8)).verdict == STEADY
    assert said(points(*CALM, 10.0), new, points(10.0, first=8)).note == ""


def test_a_mark_outlives_new_software_until_the_operator_takes_the_device_as_it_is() -> None:
    shifted = points(*CALM, 11.0, 11.0)
    upgraded = [*shifted, *points(*[12.0] * 8, software=NEW, first=7)]
    state = said(upgraded)
    assert (state.verdict, state.since) == (SHIFTED, "2026-03-06T04:00:00+00:00")
    assert "before its series began anew" in state.evidence
    accepted = said(upgraded, points(12.0, software=NEW, first=15, number=1))
    assert (accepted.verdict, accepted.note, accepted.number) == (BASELINE, "new series: begun by the operator", 1)


def test_the_clock_is_named_when_it_went_with_the_time() -> None:
    explained = said(points(*CALM, clock_mhz=2000.0), points(11.0, 11.0, first=5, clock_mhz=1820.0))
    assert "the clock went from 2000 to 1820 MHz, which explains it" in explained.evidence
    part = said(points(*CALM, clock_mhz=2000.0), points(13.0, 13.0, first=5, clock_mhz=1820.0))
    assert "and +18.3 % in cycles" in part.evidence
    same = said(points(*CALM, clock_mhz=2000.0), points(11.0, 11.0, first=5, clock_mhz=1990.0))
    assert "the clock did not change (1990 MHz)" in same.evidence
    assert "clock" not in said(points(*CALM, 11.0, 11.0)).evidence


def test_a_changed_power_limit_is_named() -> None:
    before, after = {"power limit w": "700"}, {"power limit w": "500"}
    state = said(points(*CALM, settings=before), points(11.0, 11.0, first=5, settings=after))
    assert state.evidence.endswith("; power limit w 700 -> 500")


@given(st.lists(st.one_of(st.floats(5, 20), st.just("disturbed: x")), max_size=30))
def test_any_history_gives_a_state_that_survives_the_register(times: list[float | str]) -> None:
    state = said(points(*times))
    assert from_json(CanaryState, to_json(state)) == state
    assert state.shifted == (state.since is not None)
    assert state.summary
