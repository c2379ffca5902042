# SPDX-License-Identifier: Apache-2.0
"""A real slowdown on a real night: seen, settled by runs of before and now, told; accepted, it is the new level.

The nights before are records of a real run, moved to their dates: what they say is scattered a little, as nights are.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from farm.api import Farm
from farm.confirming import Terms, settle_all
from farm.contract.record import Record
from farm.history.calendar import read_calendar
from farm.history.document import Night, encode
from farm.history.nights import Terms as Judging
from farm.history.nights import assess, conclude, replay, write
from farm.local import LocalFarm
from farm.nightly import RealWorld
from farm.settings import Settings
from scheduler.nightly.run import Asked, run_nights
from tests.e2e.conftest import wait_for
from tests.e2e.test_canary import QUIET

pytestmark = pytest.mark.alone
#: Nothing that a neighbour on this machine does makes a run doubtful: the slowdown is far larger.
SOUND = (
    QUIET
    | dict.fromkeys(
        ("rcv", "iqr_over_median", "window_rate_spread", "slow_start", "process_sd", "process_sd_over_interval"), 1e9
    )
    | {"history_pool": 0.05}
)  # the scatter below is no news
SCATTER = (0.95, 1.03, 0.98, 1.05, 0.97, 1.02, 1.0)
#: A build takes a millisecond here, and neighbours take memory: these scatter without end, so they get no history.
WILD = {"build_s", "memory_available_drop_bytes"}
SLOW, STEADY = "resnet18", "alexnet"

SWEEP = """
name: night-{model}
protocol: {{base: quick, warmup_min_iterations: 1, warmup_min_s: 0.0, min_iterations: 10, min_s: 0.0}}
models: [{model}]
workflows: [{{name: fake, latency_ms: 10.0, engine_pace_file: {pace}}}]
precisions: [fp32]
batch: [1]
"""


class Tomorrow(RealWorld):
    """The same farm a day later."""

    def now(self) -> datetime:
        """The time then."""
        return super().now() + timedelta(days=1)


@dataclass
class Place:
    """A farm and the settings of its nightly."""

    farm: Farm
    base: Path

    @property
    def config(self) -> Path:
        return self.base / "farm.toml"

    def engines(self, **paces: float) -> None:
        """Lose all engines: they are built anew, with these paces."""
        for model, pace in paces.items():
            (self.base / f"{model}.pace").write_text(str(pace))
        shutil.rmtree(self.farm.settings.cache_dir / "prepared" / "fake_engine", ignore_errors=True)

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FARM_")}
        return subprocess.Popen(
            [sys.executable, "-m", "farm.cli.main", *words], env=environment | {"FARM_CONFIG": str(self.config)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def done(self, *words: str) -> str:
        process = self.start(*words)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        return output

    def confirmations(self) -> list[str]:
        """The sweeps made to settle something."""
        sweeps = self.farm.store.sweeps
        return [name for name in sweeps.names() if sweeps.read(name).get("purpose") == "confirmation"]

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.base / "told.jsonl").read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A running farm with two sweeps a night."""
    settings = Settings(
        home=tmp_path / "home", lock_dir=tmp_path / "locks", lease_s=30, idle_wait_s=0, suspect_retries=0,
        canary=False, thresholds={"all": SOUND},
    )  # fmt: skip
    lines = [f'home = "{settings.home}"', f'store = "{settings.store_dir}"', f'lock_dir = "{settings.lock_dir}"']
    lines += ["lease_s = 30", "[thresholds.all]", *(f"{name} = {value}" for name, value in SOUND.items())]
    lines += ["[nightly]", 'at = "00:00"', 'report_dir = "reports"', "canary_limit_min = 0"]
    lines += ["[nightly.notify]", 'file = "told.jsonl"']
    for model in (SLOW, STEADY):
        pace, sweep = tmp_path / f"{model}.pace", tmp_path / f"{model}.yaml"
        sweep.write_text(SWEEP.format(model=model, pace=pace))
        lines += ["[[nightly.sweeps]]", f'path = "{sweep}"']
    made = Place(Farm(settings), tmp_path)
    made.config.write_text("\n".join(lines) + "\n")
    made.engines(**{SLOW: 1.0, STEADY: 1.0})
    with LocalFarm(settings):
        yield made


def nights_before(place: Place, tonight: date) -> None:
    """Measure both sweeps once, and write and judge a night of it for each of some dates."""
    measured: list[Record] = []
    for model in (SLOW, STEADY):
        made = place.farm.submit(place.base / f"{model}.yaml", again=True)
        for _ in place.farm.watch(made.sweep_id, limit_s=240):
            pass
        measured += [record for record in place.farm.records(made.sweep_id) if isinstance(record, Record)]
    assert [record.outcome for record in measured] == ["ok", "ok"]
    store = place.farm.store
    for ago, scatter in zip(range(len(SCATTER), 0, -1), SCATTER, strict=True):
        name = (tonight - timedelta(days=ago)).isoformat()
        moved = [moved_to(record, name, scatter) for record in measured]
        for record in moved:
            store.records.write(record)
        store.nights.write(name, encode(Night(name, tuple(record.job.sweep_id for record in moved))))
        found = assess(store, name, terms=Judging(thresholds={"all": SOUND}))
        write(store, conclude(store, found, at=f"{name}T06:00:00+00:00"))


def moved_to(record: Record, night: str, scatter: float) -> Record:
    """A record as if it had been made on another night."""
    job = dataclasses.replace(
        record.job, job_id=f"{record.job.job_id}-{night}", sweep_id=f"{record.job.sweep_id}-{night}"
    )
    kept = {name: value for name, value in record.metrics.items() if value is not None and name not in WILD}
    return dataclasses.replace(
        record,
        run_id=job.run_id(record.batch_size),
        job=job,
        metrics={name: value * scatter for name, value in kept.items()},
        intervals={},
        processes=[],
        started_at=f"{night}T01:00:00.000000+00:00",
        finished_at=f"{night}T01:00:01.000000+00:00",
    )


def test_a_slowdown_is_settled_told_accepted_and_the_new_level(place: Place) -> None:
    store, today = place.farm.store, datetime.now(UTC).date()
    nights_before(place, today)
    assert not any(night.events for night in read_calendar(store).nights.values())
    place.engines(**{SLOW: 2.0, STEADY: 1.0})

    process = place.start("nightly", "run", "--now")
    try:
        wait_for(lambda: len(place.confirmations()) >= 4, "the first turns")
    finally:
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
    assert len(place.confirmations()) < 10, output
    place.done("nightly", "run")

    name = max(store.nights.names())
    night = read_calendar(store).nights[name]
    event = settled(place, night)
    spent_s = night.run["steps"]["confirm"]["spent_s"]
    wanted = assess(store, name, terms=Judging(thresholds={"all": SOUND})).wanted
    again = settle_all(place.farm, wanted, Terms(1.0, resumed=True), pytest.fail)
    assert again.spent_s == pytest.approx(spent_s), "turns of the process that was killed count as well"
    told(place, name)

    place.done("regressions", "accept", event, "--reason", "needed")
    accepted(place, name, event)


def settled(place: Place, night: Night) -> str:
    """The night has the slow series' events, confirmed by ten processes, and no other; the id of that of the time."""
    assert night.run["attempts"] == 2
    opened = [event for event in night.events if event.state.is_open]
    assert {event.metric for event in opened} == {"latency_ms", "throughput_per_s"}, night.events
    assert {event.state for event in opened} == {"confirmed"}
    assert {event.since for event in opened} == {night.night}
    (event,) = (event for event in opened if event.metric == "latency_ms")
    assert event.worse
    assert event.change == pytest.approx(1.0, abs=0.3)
    (made,) = event.confirmations
    assert (made.how, made.verdict, len(made.sweeps)) == ("ab", "SLOWER", 10)
    found = place.farm.records(*made.sweeps)
    assert len([record for record in found if isinstance(record, Record) and record.outcome == "ok"]) == 10
    (line,) = listed(place, "latency_ms")
    assert line["name"].startswith(f"{SLOW}/fake/fp32 b1")
    return event.event_id


def listed(place: Place, metric: str) -> list[dict[str, Any]]:
    found = json.loads(place.done("regressions", "list", "--format", "json"))
    return [event for event in found if event["metric"] == metric]


def told(place: Place, name: str) -> None:
    """Report and message name the series that changed, and not the other one."""
    page = (place.base / "reports" / name / "report.md").read_text()
    assert re.search(rf"{SLOW}/fake/fp32 b1.* became \d+ % slower", page)
    assert not re.search(rf"{STEADY}.* became", page)
    (message,) = (message for message in place.messages() if message["night"] == name)
    assert message["state"] == "attention"
    assert re.search(rf"\[confirmed\] {SLOW}/fake/fp32 b1.*: latency_ms \+\d+\.\d % worse", message["text"])
    assert STEADY not in message["text"]


def accepted(place: Place, before: str, event: str) -> None:
    """The next night says so, and takes the slow level for right."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARM_CONFIG", str(place.config))
        settings = Settings()
        world = Tomorrow(Farm(settings))
        (name,) = run_nights(place.farm.store, world, settings.nightly, Asked(at_once=True), place.base)
    night = read_calendar(place.farm.store).nights[name]
    assert name > before
    (known,) = (each for each in night.events if each.event_id == event)
    assert (known.state, known.decision and known.decision.reason) == ("accepted", "needed")
    assert not [trigger for trigger in night.triggers if trigger.key in known.keys]
    assert night.memory is not None
    assert night.memory[known.keys[0]]["since"] == before
    assert "watched" not in night.memory[known.keys[0]]
    assert night.run["missed"] == []
    assert not [each for each in place.farm.regressions.events() if each.metric == "latency_ms"]
    (change,) = changes_of(place.messages(), name, f"event:{event}")
    assert (change["before"], change["after"], change["bad"]) == ("confirmed", "accepted", False)
    written = list(read_calendar(place.farm.store).nights.values())
    assert replay(place.farm.store, "9999-12-31", Judging(thresholds=settings.thresholds)) == written


def changes_of(messages: Sequence[dict[str, Any]], night: str, subject: str) -> list[dict[str, Any]]:
    groups = [group for message in messages if message["night"] == night for group in message["groups"]]
    return [change for group in groups for change in group["changes"] if change["subject"] == subject]
