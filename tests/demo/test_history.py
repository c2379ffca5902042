# SPDX-License-Identifier: Apache-2.0
"""The made-up history: the farm finds in it what was put there, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.contract.record import Record
from farm.demo import write_demo
from farm.demo.world import DEVICES, INJECTED, NIGHTS, night_name
from farm.errors import UsageError
from farm.history.calendar import read_calendar
from farm.history.model import Event, State
from farm.history.nights import replay
from farm.regressions import Regressions
from farm.store import Store

#: What moves with a time.
WITH_IT = {"latency_ms": {"latency_ms", "throughput_per_s"}}


def wanted() -> dict[str, tuple[str, str, str, set[str], str]]:
    """What the open events are to be: kind, device, case, metrics, first night."""
    return {
        each.name: (
            each.kind,
            each.device,
            "/".join(each.case) if each.case else "the whole device",
            WITH_IT.get(each.metric, {each.metric}) if each.kind == "series" else {each.metric},
            night_name(each.night),
        )
        for each in INJECTED
        if each.kind
    }


def test_exactly_the_injected_changes_are_open(demo_store: Path) -> None:
    regressions = Regressions(Store(demo_store))
    events = regressions.events()
    names = regressions.names(events)
    left = {event.event_id: event for event in events}
    for name, (kind, device, case, metrics, since) in wanted().items():
        own = [
            event
            for event in left.values()
            if (event.kind, event.device) == (kind, device) and names[event.event_id].startswith(case)
        ]
        assert {event.metric for event in own} == metrics, name
        assert {event.since for event in own} == {since}, name
        assert {event.state for event in own} == {State.CONFIRMED}, name
        assert {event.worse for event in own} == {name != "improvement"}, name
        assert len({event.group for event in own}) == 1, name
        left = {key: event for key, event in left.items() if event not in own}
    assert left == {}


def test_a_spike_is_dismissed_and_a_drift_never_told(demo_store: Path) -> None:
    events = Regressions(Store(demo_store)).events(every=True)
    closed = [event for event in events if not event.state.is_open]
    spike = next(each for each in INJECTED if each.name == "spike")
    assert {(event.device, event.since, event.state) for event in closed} == {
        (spike.device, night_name(spike.night), State.DISMISSED)
    }


def by_device(demo_store: Path, device: str) -> list[Event]:
    return Regressions(Store(demo_store)).events(device=device)


def test_sizes_and_causes_are_those_that_were_put_in(demo_store: Path) -> None:
    (step,) = [e for e in by_device(demo_store, "simulated-gpu-1") if e.metric == "latency_ms"]
    assert step.change == pytest.approx(0.12, abs=0.01)
    assert step.cause == ("tensorrt 10.3.0 -> 10.4.0",)
    (small,) = [e for e in by_device(demo_store, "simulated-cpu-1") if e.metric == "latency_ms" and e.worse]
    assert small.change == pytest.approx(0.05, abs=0.01)
    assert len(small.confirmations) == 2, "a change below 10 % takes two nights"
    (whole,) = by_device(demo_store, "simulated-soc-1")
    assert whole.change == pytest.approx(0.09, abs=0.01)
    assert any("its canary" in note for note in whole.notes)


def test_every_record_says_that_it_is_simulated(demo_store: Path) -> None:
    records = [record for record in Store(demo_store).records.iterate() if isinstance(record, Record)]
    assert len(records) > 1000
    for record in records:
        assert record.device is not None
        assert record.device.device_id.startswith("simulated-")
        assert record.device.device_class.startswith("simulated-")
        assert record.provenance["simulated"] is True
    assert {record.device.device_id for record in records if record.device} == {device.name for device in DEVICES}


def test_confirmations_are_records_that_no_series_has(demo_store: Path) -> None:
    store = Store(demo_store)
    nights = read_calendar(store).nights
    assert len(nights) == NIGHTS
    made = [each for night in nights.values() for each in night.confirmations]
    assert made
    for each in made:
        for sweep in each.sweeps:
            assert store.sweeps.read(sweep)["purpose"] == "confirmation"
            assert any(store.records.iterate(sweep))


def test_the_store_is_whole(demo_store: Path) -> None:
    assert list(Store(demo_store).verify()) == []


def test_all_its_nights_replayed_are_the_same(demo_store: Path) -> None:
    store = Store(demo_store)
    written = list(read_calendar(store).nights.values())
    again = replay(store, "2026-12-31")
    assert again == written


def test_it_is_written_to_an_empty_directory_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UsageError, match="is not empty"):
        write_demo(tmp_path)
