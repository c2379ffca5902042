# SPDX-License-Identifier: Apache-2.0
"""A change settled by a whole farm: what ran before and what runs now, measured alternately; latencies are known."""

from __future__ import annotations

import dataclasses
import json
import shutil
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from farm.api import Farm
from farm.compare import Verdict
from farm.comparing import asked_for
from farm.confirming import Terms, confirm, settle_all
from farm.contract.job import Pin
from farm.contract.record import Record
from farm.history.model import Trigger
from farm.identity import series_id
from farm.local import LocalFarm
from farm.settings import Settings
from farm.sweep import SweepSpec, load_sweep

pytestmark = pytest.mark.alone
#: A test machine may be busy; the differences that are looked for are far larger than what that does.
BUSY = ("host_busy", "unstable", "low_memory", "clock_drift", "on_battery", "cpu_wait", "process_spread")
LIBRARY = "onnxscript"

SWEEP = """
name: {name}
protocol: {{base: quick, warmup_min_iterations: 1, warmup_min_s: 0.0, min_iterations: 10, min_s: 0.0}}
models: [{model}]
workflows: [{{name: fake, latency_ms: 30.0, engine_pace_file: {pace}}}]
precisions: [fp32]
batch: [{batch}]
"""


@dataclass
class Nights:
    """A farm on whose worker an engine can be built anew, faster or slower."""

    farm: Farm
    base: Path

    def measure(self, model: str, pace: float, *, batch: str = "1", rebuilt: bool = True) -> list[Record]:
        """One night of a sweep; with `rebuilt`, after its engine was lost."""
        file = self.base / f"{model}.pace"
        file.write_text(str(pace))
        if rebuilt:
            shutil.rmtree(self.farm.settings.cache_dir / "prepared" / "fake_engine", ignore_errors=True)
        sweep = self.base / f"{model}.yaml"
        sweep.write_text(SWEEP.format(name=f"night-{model}", model=model, pace=file, batch=batch))
        made = self.farm.submit(sweep, again=True)
        for _ in self.farm.watch(made.sweep_id, limit_s=240):
            pass
        found = [record for record in self.farm.records(made.sweep_id) if isinstance(record, Record)]
        assert [record.outcome for record in found] == ["ok"] * len(found)
        return sorted(found, key=lambda record: record.batch_size or 0)


@dataclass(frozen=True)
class Asked:
    """What a night wants to have settled."""

    trigger: Trigger
    base: tuple[str, ...]
    new: tuple[str, ...]
    predicted_s: float = 0.0


def asked(base: list[Record], now: Record, change: float = 0.5, metric: str = "latency_ms") -> Asked:
    """A trigger on the series of `now`."""
    centre = float(base[-1].metrics[metric] or 0)
    key = f"{series_id(now)}:{metric}"
    trigger = Trigger(key, "2026-11-21", "2026-11-21", "step", centre, 0.01, 7, 9.0, change, 1e-9)
    return Asked(trigger, tuple(record.run_id for record in base), (now.run_id,))


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    """A running farm with a second stack, which has a library in an older version."""
    base = tmp_path_factory.mktemp("confirming")
    stacks = {name: stack(base / name, version) for name, version in (("default", "2.0"), ("before", "1.0"))}
    settings = Settings(home=base / "home", lock_dir=base / "locks", lease_s=30, idle_wait_s=0, suspect_retries=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARM_STACKS", json.dumps(stacks))
        with LocalFarm(settings):
            yield Nights(Farm(settings), base)


def stack(directory: Path, version: str) -> dict[str, str]:
    """A stack with an interpreter of its own, whose only library has this version."""
    venv.create(directory, with_pip=False)
    (site,) = directory.glob("lib/python*/site-packages")
    (site / f"{LIBRARY}.py").write_text(f"__version__ = {version!r}\n")
    return {"python": str(directory / "bin" / "python")}


def test_a_slower_engine_is_confirmed_against_the_one_before_and_measured_once(nights: Nights) -> None:
    before = nights.measure("resnet18", 1.0, batch="1, 2")
    after = nights.measure("resnet18", 2.0, batch="1, 2")
    wanted = [asked([old], new) for old, new in zip(before, after, strict=True)]
    wanted.append(asked([before[0]], after[0], -0.5, "throughput_per_s"))
    told: list[str] = []
    lost = dataclasses.replace(wanted[0].trigger, key="0123456789abcdef:latency_ms")
    wanted.insert(0, Asked(lost, ("gone-g0-b1",), wanted[0].new))
    settled = settle_all(nights.farm, wanted, Terms(600, accept=BUSY), told.append)
    assert [made.verdict for made in settled.confirmations] == ["", *[Verdict.SLOWER] * 3], settled
    assert [made.key for made in settled.confirmations] == [each.trigger.key for each in wanted]
    assert {made.how for made in settled.confirmations} == {"ab"}
    assert settled.confirmations[1].ratio == pytest.approx(2, rel=0.2)
    assert "fake_engine" in settled.confirmations[1].base
    assert [missed.reason for missed in settled.missed] == ["no run of before is on record"]
    assert len(told) == 10, "three triggers of one job share one session"
    assert settled.spent_s > 5
    again = settle_all(nights.farm, wanted, Terms(600, accept=BUSY), told.append)
    assert again.confirmations == settled.confirmations
    assert len(told) == 10
    assert again.spent_s == 0
    _holds_apart(nights.farm, settled.confirmations[1].sweeps, before[0], after[0])


def _holds_apart(farm: Farm, sweeps: tuple[str, ...], before: Record, after: Record) -> None:
    """The turns ran what they were told to, say so, and belong to no series and to no report of everything."""
    engines = [next(ref.sha256 for ref in r.artifacts if ref.kind == "fake_engine") for r in (before, after)]
    found = [record for sweep in sweeps for record in farm.records(sweep) if isinstance(record, Record)]
    assert len(found) == 20
    for record in found:
        (ref,) = [ref for ref in record.artifacts if ref.kind == "fake_engine"]
        assert ref.pinned
        assert ref.sha256 == engines[record.job.sweep_name.endswith("-new")]
        assert series_id(record) not in (series_id(before), series_id(after))
    assert not {r.job.sweep_id for r in asked_for(farm.store, farm.records()) if isinstance(r, Record)} & set(sweeps)
    assert all(farm.store.sweeps.read(sweep)["purpose"] == "confirmation" for sweep in sweeps)


def test_an_engine_of_other_bytes_that_is_as_fast_is_none(nights: Nights) -> None:
    before, after = nights.measure("alexnet", 1.0), nights.measure("alexnet", 1.0)
    (made,) = confirm(nights.farm, [asked(before, after[0])], 600, accept=BUSY)
    assert (made.how, made.verdict) == ("ab", Verdict.SAME), made


def test_older_libraries_are_measured_on_the_stack_that_still_has_them(nights: Nights) -> None:
    (now,) = nights.measure("vgg11", 1.0)
    assert now.stack is not None
    assert now.stack.libraries[LIBRARY] == "2.0"
    old = dataclasses.replace(now.stack, libraries=now.stack.libraries | {LIBRARY: "1.0"})
    before = dataclasses.replace(
        now,
        run_id=f"{now.run_id}-before",
        stack=old,
        environment=now.environment | {"libraries": {LIBRARY: "1.0"}},
    )
    after = dataclasses.replace(
        now, run_id=f"{now.run_id}-after", environment=now.environment | {"libraries": {LIBRARY: "2.0"}}
    )
    for record in (before, after):
        nights.farm.store.records.write(record)
    (made,) = confirm(nights.farm, [asked([before], after)], 600, accept=BUSY)
    assert (made.how, made.verdict) == ("ab", Verdict.SAME), made
    assert "stack 'before'" in made.base
    stacks = [
        (r.job.sweep_name.rpartition("-")[2], r.stack.name)
        for sweep in made.sweeps
        for r in nights.farm.records(sweep)
        if isinstance(r, Record) and r.stack
    ]
    assert sorted(set(stacks)) == [("base", "before"), ("new", "default")]
    assert len(stacks) == 10


def test_where_nothing_can_run_again_tonight_is_held_against_the_nights(nights: Nights) -> None:
    file = nights.base / "squeezenet1_0.pace"
    before = [r for _ in range(5) for r in nights.measure("squeezenet1_0", 1.0, rebuilt=False)]
    file.write_text("2.0")
    after = nights.measure("squeezenet1_0", 1.0, rebuilt=False)
    (made,) = confirm(nights.farm, [asked(before, after[0])], 600, accept=BUSY)
    assert (made.how, made.verdict) == ("again", Verdict.SAME), made
    assert "those of before" in made.reason
    assert "a change of the machine" in made.reason
    assert len(made.sweeps) == 5


def test_what_does_not_fit_the_budget_is_not_begun(nights: Nights) -> None:
    before, after = nights.measure("googlenet", 1.0), nights.measure("googlenet", 1.0)
    told: list[str] = []
    poor = settle_all(nights.farm, [asked(before, after[0])], Terms(1.0), told.append)
    assert poor.confirmations[0].verdict == ""
    assert "of the budget are left" in poor.missed[0].reason
    late = settle_all(nights.farm, [asked(before, after[0])], Terms(600, until_s=0.0), told.append)
    assert late.missed[0].reason == "the time for settling changes is over"
    assert told == []


def test_a_session_that_somebody_cancels_says_so(nights: Nights) -> None:
    # Long enough that it cannot have ended before it is cancelled.
    before, after = nights.measure("shufflenet_v2_x1_0", 10.0), nights.measure("shufflenet_v2_x1_0", 10.0)
    farm = Farm(nights.farm.settings)
    submit = farm.submit

    def submit_and_cancel(sweep: SweepSpec) -> Any:
        made = submit(sweep)
        farm.cancel(made.sweep_id)
        return made

    farm.submit = submit_and_cancel  # type: ignore[assignment, method-assign]
    told: list[str] = []
    (made,) = confirm(farm, [asked(before, after[0])], 600, told.append)
    assert made.verdict == ""
    assert "cancelled" in made.reason
    assert len(told) == 1


def test_a_file_that_no_record_names_is_refused_before_it_is_touched(nights: Nights) -> None:
    (now,) = nights.measure("mnasnet0_5", 1.0)
    sha256 = nights.farm.store.blobs.put_bytes(b"not the farm's own").sha256
    spec = load_sweep(nights.base / "mnasnet0_5.yaml")
    pinned = spec.model_copy(update={"name": "foreign", "pins": (Pin("fake_engine", sha256, now.run_id),)})
    made = nights.farm.submit(pinned)
    for _ in nights.farm.watch(made.sweep_id, limit_s=240):
        pass
    (record,) = nights.farm.records(made.sweep_id)
    assert isinstance(record, Record)
    assert record.failure is not None
    assert (record.outcome, record.failure.reference) == ("failed", "pin-not-recorded")
    assert not list((nights.farm.settings.cache_dir / "pinned").rglob(sha256))
    assert record.stages == []


def test_a_stack_that_is_not_there_is_refused(nights: Nights) -> None:
    nights.measure("mnasnet1_0", 1.0)
    spec = load_sweep(nights.base / "mnasnet1_0.yaml").model_copy(update={"name": "elsewhere", "stack": "gone"})
    plan = nights.farm.plan(spec)
    assert plan.jobs == ()
    assert plan.refusals[0].refusal.reference == "stack-missing"
    assert "'before'" in plan.refusals[0].reason
