# SPDX-License-Identifier: Apache-2.0
"""Two sweeps measured alternately by a whole farm, then compared; the fake workflow's latencies are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from farm.api import Farm
from farm.compare import Rules, Verdict
from farm.compare.order import Turn

pytestmark = pytest.mark.alone
Write = Callable[..., Path]

#: A test machine may be busy; the difference that is looked for is far larger than what that does.
BUSY = ("host_busy", "unstable", "low_memory", "clock_drift", "on_battery")


def test_twice_as_long_is_slower_and_nothing_is_measured_twice(local: Farm, sweep: Write) -> None:
    base, new = sweep("swift", batch="1", latency_ms=10.0), sweep("slow", batch="1", latency_ms=20.0)
    taken: list[Turn] = []

    def measure(processes: int) -> Verdict:
        found = local.compare_measured(
            base,
            new,
            processes=processes,
            devices=None,
            rules=Rules(accept=BUSY),
            on_turn=lambda turn, _left: taken.append(turn),
        )
        (cell,) = found.cells
        assert [d.name for d in found.treatment] == ["options"]
        assert len(cell.base.processes) == len(cell.new.processes) == processes
        assert len({process.run_id for process in cell.base.processes + cell.new.processes}) == 2 * processes
        return cell.verdict

    assert measure(2) is Verdict.UNCLEAR
    assert len(taken) == 4
    assert measure(5) is Verdict.SLOWER
    assert len(taken) == 10
    assert measure(5) is Verdict.SLOWER
    assert len(taken) == 10
    in_time = sorted(
        (record.started_at, record.job.sweep_name.rpartition("-")[2])  # type: ignore[union-attr]
        for turn in taken
        for record in local.records(turn.spec.sweep_id)
    )
    assert [side for _, side in in_time] == [turn.side for turn in taken]


def test_a_sweep_against_itself_is_not_different(local: Farm, sweep: Write) -> None:
    same = sweep("same", batch="1", latency_ms=5.0)
    found = local.compare_measured(same, same, devices=None, rules=Rules(accept=BUSY))
    assert found.treatment == ()
    assert found.caveats == ()
    assert found.cells[0].verdict in (Verdict.SAME, Verdict.UNCLEAR)
    assert len(found.cells[0].new.processes) == 5


def test_the_command_starts_a_farm_of_its_own_and_keeps_its_output_clean(sweep: Write, tmp_path: Path) -> None:
    base, new = sweep("one", batch="1", latency_ms=1.0), sweep("two", batch="1", latency_ms=2.0)
    home = tmp_path / "home"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FARM_")}

    def compare() -> subprocess.CompletedProcess[str]:
        words = ["compare", "--measure", str(base), str(new), "--processes", "1", "--format", "json"]
        return subprocess.run(
            [sys.executable, "-m", "farm.cli.main", "--home", str(home), *words],
            capture_output=True,
            text=True,
            timeout=200,
            env=kept | {"FARM_LOCK_DIR": str(tmp_path / "locks")},
        )

    first = compare()
    assert first.returncode == 0, first.stderr
    assert "2 left: " in first.stderr
    told = json.loads(first.stdout)
    assert told["cells"][0]["verdict"] == "UNCLEAR"
    assert told["cells"][0]["ratio"]["value"] > 1.2
    again = compare()
    assert json.loads(again.stdout) == told
    assert "left: " not in again.stderr
