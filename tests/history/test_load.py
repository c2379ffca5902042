# SPDX-License-Identifier: Apache-2.0
"""From records to series: which night a run is of, which runs count, and what their median is."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from farm.canary import NAME
from farm.contract.protocols import PROTOCOLS
from farm.errors import UsageError
from farm.history.calendar import check_night, read_calendar
from farm.history.document import Night, encode
from farm.history.load import Loader, left_out, window
from farm.history.model import Confirmation, Series
from farm.history.purpose import CONFIRMATION, PURPOSE
from farm.identity import series_id
from farm.store import Store
from tests.factories import make_flag, make_job
from tests.history.stored import job_of, name_night, new_store, night_name, put, put_nights


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path / "store")


def read(store: Store, metric: str = "latency_ms", nights: int = 60, *, runs: bool = True) -> list[Series]:
    store.index.refresh()
    calendar = read_calendar(store)
    loader = Loader(store, calendar, window(store, calendar, None, nights))
    return list(loader.series([metric], runs=runs))


def test_a_series_has_a_point_for_each_night_with_its_runs(store: Store) -> None:
    put_nights(store, [8.0, 8.5, 9.0])
    (series,) = read(store)
    assert [(point.night, point.value) for point in series.points] == [
        ("2026-03-01", 8.0),
        ("2026-03-02", 8.5),
        ("2026-03-03", 9.0),
    ]
    record = store.records.read(series.points[0].runs[0])
    assert series.series_id == series_id(record)
    assert (series.device, series.better) == ("box-cpu", "lower")
    assert (series.fields["model"], series.fields["batch"]) == ("resnet18", "1")


def test_a_run_after_midnight_is_of_the_night_whose_document_names_its_sweep(store: Store) -> None:
    put(store, 1, 8.0, day=2)
    assert [point.night for point in read(store)[0].points] == ["2026-03-02"], "without a document: the date"
    name_night(store, 1)
    assert [point.night for point in read(store)[0].points] == ["2026-03-01"]


def test_a_window_begins_with_the_first_run_of_its_nights_however_early_that_finished(store: Store) -> None:
    put_nights(store, [8.0, 8.5])
    put(store, 3, 9.0, day=1, run_id="early")
    name_night(store, 3)
    store.index.refresh()
    over = window(store, read_calendar(store), None, 1)
    assert (over.first, over.last, over.since) == ("2026-03-03", "2026-03-03", datetime(2026, 3, 1, 1, 0, 20))
    (series,) = read(store, nights=1)
    assert [(point.night, point.runs) for point in series.points] == [("2026-03-03", ("early",))]
    later = window(store, read_calendar(store), "2026-03-02", 1)
    assert later.since == datetime(2026, 3, 2, 1, 0, 20)


def test_the_value_is_the_median_of_valid_runs_and_the_rest_is_counted(store: Store) -> None:
    for attempt, value in enumerate((8.0, 9.0, 20.0)):
        put(store, 1, value, run_id=f"valid-{attempt}")
    put(store, 1, 100.0, run_id="doubtful", flags=[make_flag(level="suspect")])
    put(store, 1, 200.0, run_id="broken", flags=[make_flag(level="invalid")])
    put(store, 1, None, run_id="failed")
    (series,) = read(store)
    assert [point.value for point in series.points] == [9.0]
    assert set(series.points[0].runs) == {"valid-0", "valid-1", "valid-2"}
    assert left_out(store, read_calendar(store), "2026-03-01") == {"suspect": 1, "invalid": 1}


def test_canaries_are_no_series(store: Store) -> None:
    protocol = PROTOCOLS["paper"].__class__(**{**vars(PROTOCOLS["paper"]), "name": NAME})
    put(store, 1, 8.0, job=make_job(sweep_name=NAME, protocol=protocol))
    assert read(store) == []


@pytest.mark.parametrize("told_by", ["sweep", "night"])
def test_what_was_measured_to_settle_something_is_no_series(store: Store, told_by: str) -> None:
    put(store, 1, 8.0)
    put(store, 1, 80.0, job=make_job(job_id="again", sweep_id="again-1", sweep_name="again"))
    if told_by == "sweep":
        store.sweeps.write("again-1", {"sweep_id": "again-1", PURPOSE: CONFIRMATION})
        store.sweeps.write("nightly-01", {"sweep_id": "nightly-01"})
    else:
        made = Confirmation("k", "2026-03-01", "ab", "SAME", sweeps=("again-1",))
        store.nights.write("2026-03-01", encode(Night("2026-03-01", ("nightly-01",), confirmations=(made,))))
    assert [point.value for series in read(store) for point in series.points] == [8.0]


def test_only_the_last_nights_are_read(store: Store) -> None:
    put_nights(store, [8.0] * 6)
    assert [point.night for point in read(store, nights=2)[0].points] == ["2026-03-05", "2026-03-06"]


def test_groups_that_do_not_fit_at_once_come_in_parts_and_are_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("a", "b", "c", "d", "e"):
        put_nights(store, [8.0, 8.5, 9.0], model=model)
    whole = {series.key: series for series in read(store)}
    monkeypatch.setattr("farm.history.load._GROUPS", 4)
    parts = read(store)
    assert len(parts) == 5
    assert {series.key: series for series in parts} == whole


def test_runs_are_named_only_when_asked_for(store: Store) -> None:
    put_nights(store, [8.0])
    assert read(store, runs=False)[0].points[0].runs == ()


def test_documents_that_cannot_be_read_are_named_and_stop_nothing(store: Store) -> None:
    put_nights(store, [8.0, 8.1])
    store.nights.path("2026-03-03").write_text("{ not JSON")
    store.nights.path("2026-03-04").write_text('{"schema": 99, "night": "2026-03-04"}')
    store.nights.path("2026-03-05").write_text('{"schema": 1, "night": "2026-03-05", "events": 7}')
    store.nights.path("notes").write_text('{"schema": 1, "night": "notes"}')
    calendar = read_calendar(store)
    assert list(calendar.nights) == ["2026-03-01", "2026-03-02"]
    assert len(calendar.problems) == 4
    assert "schema is 99" in calendar.problems[1]
    assert len(read(store)[0].points) == 2


@pytest.mark.parametrize("name", ["yesterday", "2026-3-1", "2026-02-30", "", "20260301"])
def test_a_night_is_named_by_its_date(name: str) -> None:
    with pytest.raises(UsageError, match="is not a night"):
        check_night(name)
    assert check_night(night_name(1)) == "2026-03-01"


def test_a_job_of_another_sweep_is_the_same_series(store: Store) -> None:
    one, other = put(store, 1, 8.0), put(store, 2, 8.0, job=job_of(2))
    assert one.job.sweep_id != other.job.sweep_id
    assert len(read(store)) == 1
