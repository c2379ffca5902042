# SPDX-License-Identifier: Apache-2.0
"""Every behaviour of the fake workflow, as real processes in foreign interpreters."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from farm.contract.catalogue import FAKE_BEHAVIOURS, WORKFLOWS
from farm.contract.metrics import METRICS
from farm.contract.run import STAGES
from tests.island.harness import Island, Running, artifact, fake_job, with_protocol
from workers.workflows.fake import _BEHAVIOURS

_MEASURE_STAGES = ["start", "load_engine", "first_inference", "warm_up", "measure", "outputs", "finish"]
_PREPARE_STAGES = ["start", "load_model", "export", "calibrate", "build", "reference", "finish"]


def _wait_until(condition: Callable[[], bool], limit_s: float = 180.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


def _ignores(process: subprocess.Popen[bytes], number: int) -> bool:
    with open(f"/proc/{process.pid}/status") as stream:
        mask = next(line for line in stream if line.startswith("SigIgn:"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def test_an_ok_measure_writes_a_result_with_every_stage_and_exits_zero(island: Island) -> None:
    finished = island.run(fake_job(latency_ms=3.0), 1)
    result = finished.ok()
    assert [stage.name for stage in result.stages] == _MEASURE_STAGES
    assert all(stage.start_ns <= stage.end_ns for stage in result.stages)
    assert result.failure is None
    assert result.run_id == fake_job().run_id(1)
    assert set(result.metrics) <= set(METRICS)
    assert {"throughput_per_s", "first_inference_ms", "load_ms", "timer_overhead_ns"} <= set(result.metrics)
    assert result.effective["clock"]["monotonic"] is True
    assert not list(finished.control.glob("*.tmp"))


def test_events_are_the_stages_as_they_happened(island: Island) -> None:
    finished = island.run(fake_job(), 1)
    told = [(e.kind, e.stage, e.monotonic_ns) for e in finished.events]
    expected = []
    for stage in finished.ok().stages:
        expected += [("stage_start", stage.name, stage.start_ns), ("stage_end", stage.name, stage.end_ns)]
    assert told == expected


def test_samples_are_all_kept_and_take_what_was_promised(island: Island) -> None:
    finished = island.run(fake_job(latency_ms=3.0), 1)
    result = finished.ok()
    latency, warm_up = finished.samples("latency"), finished.samples("warm_up")
    assert [(s.name, s.count, s.unit) for s in result.samples] == [("latency", 5, "ns"), ("warm_up", 2, "ns")]
    assert (len(latency), len(warm_up)) == (5, 2)
    assert 3_000_000 <= min(latency) < 4_000_000
    assert result.metrics["first_inference_ms"] >= 3.0
    wall_s = result.effective["timed_wall_ns"] / 1e9
    assert sum(latency) / 1e9 <= wall_s
    assert result.metrics["throughput_per_s"] == pytest.approx(5 / wall_s)


def test_throughput_counts_inputs_not_batches(island: Island) -> None:
    result = island.run(fake_job(), 4).ok()
    assert result.metrics["throughput_per_s"] == pytest.approx(5 * 4 / (result.effective["timed_wall_ns"] / 1e9))


def test_end_to_end_runs_too(island: Island) -> None:
    job = with_protocol(fake_job(latency_ms=2.0), boundary="end_to_end")
    finished = island.run(job, 1)
    assert finished.ok().effective["boundary"] == "end_to_end"
    assert min(finished.samples()) >= 2_000_000


def test_prepare_makes_a_file_once_and_finds_it_again(island: Island) -> None:
    first = island.run(fake_job()).ok()
    again = island.run(fake_job()).ok()
    assert [stage.name for stage in first.stages] == _PREPARE_STAGES
    assert [artifact(r, "fake_engine").cached for r in (first, again)] == [False, True]
    assert artifact(first, "fake_engine").sha256 == artifact(again, "fake_engine").sha256
    assert first.metrics == {}


def test_raise_becomes_failed_with_the_stage_and_the_traceback(island: Island) -> None:
    result = island.run(fake_job(behaviour="raise"), 1).failed("failed", "unexpected-error")
    assert result.failure is not None
    assert result.failure.stage == "measure"
    assert result.failure.message == "RuntimeError: the fake workflow was asked to raise"
    assert result.failure.hint
    assert "Traceback" in (result.failure.detail or "")
    assert [stage.name for stage in result.stages] == _MEASURE_STAGES[:5]
    assert result.effective["precision"] == "fp32"


@pytest.mark.parametrize(
    ("behaviour", "outcome", "reference"),
    [("unsupported", "unsupported", "unsupported"), ("out_of_memory", "out_of_memory", "out-of-memory")],
)
def test_refusals_and_memory_have_outcomes_of_their_own(
    island: Island, behaviour: str, outcome: str, reference: str
) -> None:
    result = island.run(fake_job(behaviour=behaviour), 1).failed(outcome, reference)
    assert result.failure is not None
    assert result.failure.hint


#: Those of runs of other kinds, and the one that is asked above.
_ELSEWHERE = ("measure", "device_times", "accuracy", "profile", "images", "pipeline")


@pytest.mark.parametrize("stage", [s for s in STAGES if s not in _ELSEWHERE])
def test_it_misbehaves_at_the_stage_that_is_named(island: Island, stage: str) -> None:
    prepares = stage in _PREPARE_STAGES and stage not in _MEASURE_STAGES
    job = with_protocol(fake_job(behaviour="raise", stage=stage), energy_s=0.01)
    finished = island.run(job, None if prepares else 1)
    failure = finished.failed("failed", "unexpected-error").failure
    assert failure is not None
    assert failure.stage == stage


def test_it_misbehaves_from_the_batch_that_is_named(island: Island) -> None:
    job = fake_job(behaviour="out_of_memory", from_batch=4)
    assert island.run(job).ok()
    assert island.run(job, 2).ok()
    island.run(job, 4).failed("out_of_memory", "out-of-memory")
    island.run(job, 8).failed("out_of_memory", "out-of-memory")


def test_segfault_dies_of_the_signal_without_a_result_and_leaves_its_stack_in_the_log(island: Island) -> None:
    finished = island.run(fake_job(behaviour="segfault"), 1)
    assert finished.code == -signal.SIGSEGV
    assert finished.result is None
    assert finished.events[-1].stage == "measure"
    assert "_segfault" in finished.output


def test_exit_without_result_exits_zero_and_leaves_none(island: Island) -> None:
    finished = island.run(fake_job(behaviour="exit_without_result"), 1)
    assert finished.code == 0
    assert not (finished.control / "result.json").exists()


def test_half_result_leaves_a_result_that_is_no_json(island: Island) -> None:
    finished = island.run(fake_job(behaviour="half_result"), 1)
    assert finished.code == 0
    assert (finished.control / "result.json").read_text().startswith("{")
    assert finished.result is None


def test_hang_hangs_until_it_is_told_to_end(island: Island) -> None:
    running = island.start(fake_job(behaviour="hang"), 1)
    with _ended(running):
        _wait_until(lambda: running.has_started("measure"))
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(timeout=0.3)
        running.process.terminate()
        assert running.process.wait(timeout=120) == -signal.SIGTERM


def test_ignore_sigterm_needs_the_harder_signal(island: Island) -> None:
    running = island.start(fake_job(behaviour="ignore_sigterm"), 1)
    with _ended(running):
        _wait_until(lambda: running.has_started("measure"))
        _wait_until(lambda: _ignores(running.process, signal.SIGTERM))
        running.process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(timeout=0.3)
        running.process.kill()
        assert running.process.wait(timeout=120) == -signal.SIGKILL


def test_allocate_meets_the_limit_of_the_process(island: Island) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (400 * 2**20, 400 * 2**20))

    result = island.run(fake_job(behaviour="allocate"), 1, preexec=limit).failed("out_of_memory", "out-of-memory")
    assert result.failure is not None
    assert "without meeting a limit" not in result.failure.message


def test_noise_floods_both_streams_and_is_ok(island: Island) -> None:
    finished = island.run(fake_job(behaviour="noise"), 1)
    finished.ok()
    assert len(finished.output) > 2 * 5_000_000


def test_grandchild_leaves_one_child_in_the_group_and_one_outside(island: Island) -> None:
    running = island.start(fake_job(behaviour="grandchild"), 1)
    finished = island.finish(running)
    children = finished.ok().effective["grandchildren"]
    try:
        groups = [os.getpgid(child) for child in children]
        assert groups[0] == running.process.pid
        assert groups[1] == children[1] != running.process.pid
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_options_that_make_no_sense_are_refused_by_name(island: Island) -> None:
    for options in ({"behaviour": "dance"}, {"stage": "nowhere"}, {"latency_ms": "long"}, {"colour": "red"}):
        result = island.run(fake_job(**options), 1).result
        assert result is not None
        assert result.failure is not None
        assert result.outcome == "unsupported"
        assert str(next(iter(options.values()))) in result.failure.message or "colour" in result.failure.message


def test_the_table_of_behaviours_is_the_catalogues() -> None:
    assert set(_BEHAVIOURS) == set(FAKE_BEHAVIOURS)
    assert all(name in WORKFLOWS["fake"].options["behaviour"] for name in _BEHAVIOURS)


@contextlib.contextmanager
def _ended(running: Running):  # type: ignore[no-untyped-def]
    try:
        yield
    finally:
        running.process.kill()
        running.process.wait(timeout=120)
