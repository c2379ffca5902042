# SPDX-License-Identifier: Apache-2.0
"""A device that becomes slower: real broker, Celery worker, runners, store; the fake workflow's pace is the device's.

The scheduler runs in a thread of the test, so that the canary can be a fake one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from farm.api import Farm
from farm.broker.connection import connect
from farm.broker.embedded import EmbeddedBroker
from farm.canary import CanaryState
from farm.contract.record import Record
from farm.errors import UsageError
from farm.settings import Settings
from scheduler import canary_job
from scheduler.main import serve
from tests.e2e.conftest import wait_for

pytestmark = pytest.mark.alone
#: On a machine that tests share, everything else is at work, too.
QUIET = {
    "busy_load_per_cpu": 1e9,
    "foreign_cpu_share": 1e9,
    "foreign_cpu_invalid_share": 1e9,
    "stolen_share": 1e9,
    "cpu_wait_share": 1.0,
    "low_memory_share": 0,
    # Few canaries, and a step that no neighbour makes.
    "canary_min_points": 2,
    "canary_shift": 0.25,
}


class Slow:
    """A farm of this machine's CPU, which the test makes slower or faster: seven canaries in all, half a minute."""

    def __init__(self, base: Path) -> None:
        self.pace = base / "pace"
        self.settings = Settings(
            home=base / "home",
            lock_dir=base / "locks",
            lease_s=30,
            idle_wait_s=0,
            suspect_retries=0,
            thresholds={"all": QUIET},
            canary_quarantine=True,
        )
        self.farm = Farm(self.settings)
        self.farm.store.create()

    @property
    def device(self) -> str:
        return self.farm.devices()[0].device_id

    @property
    def state(self) -> CanaryState | None:
        entries = self.farm.devices()
        return entries[0].canary.state if entries and not entries[0].canary.busy else None

    def has(self, holds: Callable[[CanaryState], bool]) -> bool:
        """Whether there is a state and it is so. Looked at once: the next moment it may be busy again."""
        state = self.state
        return state is not None and holds(state)

    def canary(self) -> CanaryState:
        (entry,) = self.farm.canary(self.device)
        assert entry.canary.state is not None
        return entry.canary.state

    def measured(self, sweep: Path) -> Record:
        submission = self.farm.submit(sweep)
        for _ in self.farm.watch(submission.sweep_id, limit_s=240):
            pass
        (record,) = self.farm.records(submission.sweep_id)
        assert isinstance(record, Record)
        return record


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow(tmp_path)
    options = {"latency_ms": 20.0, "pace_file": str(made.pace)}
    monkeypatch.setitem(canary_job.CHOICES, "cpu", (canary_job.Choice("fake", "resnet18", 1, options),))
    quick = {"warmup_min_iterations": 1, "warmup_min_s": 0.0, "min_iterations": 10, "min_s": 0.0, "max_iterations": 10}
    monkeypatch.setattr(canary_job, "PROTOCOL", replace(canary_job.PROTOCOL, **quick, processes=1))
    broker, stop = EmbeddedBroker(made.settings), threading.Event()
    broker.start()
    scheduler = threading.Thread(target=serve, args=(made.settings, stop))
    scheduler.start()
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "farm.cli.main", "worker"],
            env=os.environ | made.settings.environment(),
            stdout=log,
            stderr=log,
        )
    try:
        yield made
    finally:
        worker.terminate()
        worker.wait(timeout=120)
        stop.set()
        scheduler.join(timeout=120)
        broker.stop()


def command(slow: Slow, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "farm.cli.main", *words],
        env=os.environ | slow.settings.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_device_that_becomes_slower_is_marked_quarantined_and_cleared(slow: Slow, sweep: Callable[..., Path]) -> None:
    wait_for(lambda: slow.has(lambda state: state.points == 1), "the canary of a device that is first seen")
    assert slow.canary().summary == "baseline, 2 of 2"
    done = command(slow, "devices", "canary")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "steady" in done.stdout

    slow.pace.write_text("1.6")
    done = command(slow, "devices", "canary", slow.device)
    assert done.returncode == 1
    assert "shifted +" in done.stdout
    assert "What ran on it since" in done.stdout
    (entry,) = slow.farm.devices()
    assert entry.state == "quarantined"
    shifted = entry.canary.state
    assert shifted is not None
    assert 0.3 < (shifted.change or 0) < 1.2
    with pytest.raises(UsageError, match=r"is quarantined .*its canary has shifted"):
        slow.farm.canary(slow.device)

    connect(slow.settings).flushall()
    wait_for(lambda: slow.state, "the state from the records")
    assert slow.state == shifted

    slow.farm.set_device(slow.device, "ready")
    wait_for(lambda: slow.has(lambda state: state.last_at != shifted.last_at), "the canary of a resumed device")
    marked = slow.measured(sweep("marked", batch="1", latency_ms=3))
    assert [flag.level for flag in marked.flags if flag.name == "canary_shift"] == ["suspect"]

    slow.pace.unlink()
    assert slow.canary().verdict == "steady"
    clear = slow.measured(sweep("clear", batch="1", latency_ms=3))
    assert "canary_shift" not in {flag.name for flag in clear.flags}
    canaries = [r for r in slow.farm.records() if isinstance(r, Record) and r.job.sweep_name == "canary"]
    assert len(canaries) == 7
    assert not any(flag.name == "canary_shift" for record in canaries for flag in record.flags)
