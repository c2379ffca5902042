# SPDX-License-Identifier: Apache-2.0
"""When nights begin: clocks that change, days that are named, times that never come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.times import Times, parse_times

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns")
moments = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))
clocks = st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda hm: f"{hm[0]:02}:{hm[1]:02}")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("now", "following"),
    [
        ("2026-03-28T12:00+00:00", "2026-03-29T01:30+00:00"),  # 02:30 is left out: 03:30 summer time
        ("2026-03-29T12:00+00:00", "2026-03-30T00:30+00:00"),
        ("2026-10-24T12:00+00:00", "2026-10-25T00:30+00:00"),  # 02:30 comes twice: the first
        ("2026-10-25T00:30+00:00", "2026-10-26T01:30+00:00"),  # and not the second
    ],
)
def test_clocks_that_change_in_berlin(now: str, following: str) -> None:
    assert parse_times("02:30", "Europe/Berlin").following(at(now)) == at(following)


@given(clocks, st.sampled_from(ZONES), moments)
def test_latest_and_following_are_neighbours(clock: str, zone: str, now: datetime) -> None:
    times = parse_times(clock, zone)
    before, after = times.latest(now), times.following(now)
    assert before is not None
    assert after is not None
    assert before <= now < after
    assert times.between(before, after) == [after]
    assert timedelta(hours=22) <= after - before <= timedelta(hours=26)


@given(clocks, st.sampled_from(ZONES), moments, st.integers(1, 500))
def test_every_local_day_has_one_moment(clock: str, zone: str, start: datetime, days: int) -> None:
    times = parse_times(clock, zone)
    end = start + timedelta(days=days)
    found = times.between(start, end)
    assert len(found) in (days - 1, days, days + 1)
    dates = [times.local_date(moment) for moment in found]
    assert dates == sorted(set(dates))


@given(moments)
def test_a_cron_line_is_for_its_days_only(now: datetime) -> None:
    times = parse_times("30 4 * * mon-fri", "Europe/Berlin")
    found = times.between(now, now + timedelta(days=14))
    assert 9 <= len(found) <= 11
    assert {times.local_date(moment).weekday() for moment in found} == {0, 1, 2, 3, 4}


def test_leap_days_come() -> None:
    assert parse_times("0 2 29 2 *", "UTC").following(at("2026-01-01T00:00+00:00")) == at("2028-02-29T02:00+00:00")


@pytest.mark.parametrize(
    ("text", "zone", "words"),
    [
        ("24:00", "UTC", "neither a time of day"),
        ("2", "UTC", "neither a time of day"),
        ("0 2 * *", "UTC", "neither a time of day"),
        ("0 2 * * funday", "UTC", "neither a time of day"),
        ("0 99 * * *", "UTC", "neither a time of day"),
        ("*/5 2 * * *", "UTC", "several times a day"),
        ("0 2,4 * * *", "UTC", "several times a day"),
        ("0 2 31 2 *", "UTC", "never occurs"),
        ("0 2 29 2 mon", "UTC", "within eight years"),
        ("02:00", "Mars/Olympus", "no time zone"),
        ("02:00", "../etc/passwd", "no time zone"),
        ("02:00", "", "no time zone"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, zone: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_times(text, zone)


def test_the_cron_line_reads_as_celery_reads_it() -> None:
    times = parse_times("5 3 1-7 */2 sun", "UTC")
    assert isinstance(times, Times)
    assert times.weekdays == {0}
    assert times.months == {1, 3, 5, 7, 9, 11}
    assert times.days == set(range(1, 8))
