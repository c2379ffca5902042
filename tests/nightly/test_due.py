# SPDX-License-Identifier: Apache-2.0
"""What is due: nothing twice, nothing silently left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from farm.nightly_settings import NightlySweep
from farm.times import parse_times
from scheduler.nightly.due import Due, Known, again_of, decide, night_name, tonight

TIMES = parse_times("02:00", "UTC")
WINDOW = timedelta(hours=6)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def night(name: str, *, done: bool = True, schedule: str = TIMES.text) -> Known:
    return Known(name, at(f"{name}T02:00"), done, schedule)


def due(now: str, *nights: Known) -> Due:
    return decide(TIMES, at(now), nights, WINDOW)


def test_a_farm_without_nights_begins_at_its_time_and_missed_nothing() -> None:
    assert due("2026-11-21T01:59").begin is None
    assert due("2026-11-21T02:00:01").begin == at("2026-11-21T02:00")
    assert due("2026-11-21T03:00") == Due(next_at=at("2026-11-22T02:00"))


def test_a_night_is_begun_once() -> None:
    assert due("2026-11-21T02:00:01", night("2026-11-20")).begin == at("2026-11-21T02:00")
    assert due("2026-11-21T02:00:02", night("2026-11-20"), night("2026-11-21")).begin is None


def test_a_late_night_is_caught_up_in_the_window_and_missed_after_it() -> None:
    found = due("2026-11-21T07:59", night("2026-11-20"))
    assert (found.begin, found.late, found.missed) == (at("2026-11-21T02:00"), True, ())
    found = due("2026-11-21T08:01", night("2026-11-20"))
    assert (found.begin, found.missed) == (None, ("2026-11-21",))


def test_nights_of_a_long_absence_are_named() -> None:
    found = due("2026-11-21T02:05", night("2026-11-17"))
    assert found.missed == ("2026-11-18", "2026-11-19", "2026-11-20")
    assert found.begin == at("2026-11-21T02:00")


def test_another_schedule_says_nothing_of_missed_nights() -> None:
    assert due("2026-11-21T12:00", night("2026-11-01", schedule="02:00 Europe/Berlin")).missed == ()


def test_an_unfinished_night_comes_first() -> None:
    found = due("2026-11-22T02:10", night("2026-11-20"), night("2026-11-21", done=False))
    assert (found.resume, found.begin) == ("2026-11-21", at("2026-11-22T02:00"))


def test_a_clock_that_was_set_back_begins_nothing_old() -> None:
    assert due("2026-11-19T02:00:01", night("2026-11-21")).begin is None


zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland"])


@given(
    st.integers(0, 23), zones, st.lists(st.integers(1, 60 * 30), min_size=1, max_size=60),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), st.integers(0, 23),
)  # fmt: skip
def test_however_often_it_is_asked_no_night_is_begun_twice_and_none_vanishes(
    hour: int, zone: str, steps_min: list[int], start: datetime, window_h: int
) -> None:
    """A process that looks at any times: each night since the first was begun in its window, or is told as missed."""
    times = parse_times(f"{hour:02}:17", zone)
    now = start.replace(tzinfo=UTC)
    first = times.latest(now)
    assert first is not None
    nights = [Known(night_name(first), first, True, times.text)]
    told: set[str] = set()
    for step in steps_min:
        now += timedelta(minutes=step)
        found = decide(times, now, nights, timedelta(hours=window_h))
        if found.begin is not None:
            assert night_name(found.begin) not in {known.name for known in nights}
            assert now - found.begin <= timedelta(hours=window_h)
            told |= set(found.missed)
            nights.append(Known(night_name(found.begin), found.begin, True, times.text))
    last = decide(times, now, nights, timedelta(hours=window_h))
    should = {night_name(moment) for moment in times.between(first, now)}
    had = {known.name for known in nights}
    waiting = {night_name(last.begin)} if last.begin else set()
    assert should <= had | told | set(last.missed) | waiting
    assert not told & had


def test_sweeps_by_day_and_by_label() -> None:
    daily = NightlySweep(path=Path("a"))
    weekly = NightlySweep(path=Path("b"), days="mon, Thu", label="weekly")
    assert tonight([daily, weekly], 0) == [daily, weekly]
    assert tonight([daily, weekly], 1) == [daily]
    assert tonight([daily, weekly], 1, ["weekly"]) == [weekly]


def test_each_night_repeats_a_sweep_under_a_number_of_its_own() -> None:
    assert again_of("2026-11-21") == 20261121
