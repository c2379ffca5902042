# SPDX-License-Identifier: Apache-2.0
"""From a run with another scenario, or with an energy pass, to its record."""

from __future__ import annotations

import array
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.contract.job import JobSpec, Protocol
from farm.contract.outcome import Outcome
from farm.contract.protocols import PROTOCOLS, STAGE_LIMITS_S, stage_limits_s
from farm.contract.run import StageTime
from farm.report.stats import Absent, value
from farm.store.schema import decode_record, encode_record
from farm.summary import summarise
from farm.thresholds import DEFAULTS
from tests.factories import DEVICE, STACK, make_job
from workers.daemon import scenario
from workers.daemon.collect import Collected, JobFacts, RunFacts, collect
from workers.daemon.control import Control, read_result
from workers.daemon.launch import Ended, ExitReport
from workers.daemon.telemetry.summary import Telemetry
from workers.daemon.telemetry.summary import summarise as summarise_telemetry
from workers.daemon.telemetry.trace import Trace

NOW = "2026-03-01T10:00:00.000000+00:00"
REPORT = ExitReport(0, None, None, None, 123456, 1.0, 0.5, 0, 0, 10)
S = 1_000_000_000


def job(**switches: Any) -> JobSpec:
    return make_job(protocol=replace(PROTOCOLS["quick"], **switches))


STREAMS = {"scenario": "streams", "streams": 2}
OFFLINE = {"scenario": "offline"}


def collected(
    control: Control, of: JobSpec, latencies: list[int], trace: Trace | None = None, **result: Any
) -> Collected:
    """The record of a run that left so many latencies and `result`."""
    names = [{"name": "latency", "path": "samples/latency.i64", "count": len(latencies)}] if latencies else []
    (control.path / "samples/latency.i64").write_bytes(array.array("q", latencies).tobytes())
    document = {
        "run_id": "r",
        "outcome": "ok",
        "stages": [{"name": "measure", "start_ns": 0, "end_ns": 2 * S}],
        "samples": names,
    }
    control.result.write_text(json.dumps(document | result))
    read = read_result(control, measured=True)
    assert read.fault is None, read.fault
    run = RunFacts(Outcome.OK, None, NOW, NOW, control, Ended(REPORT, "finish"), read)
    return collect(JobFacts(of, 1, DEVICE, STACK, {}, Path("/nowhere")), 4, run, None)


def test_an_offline_run_is_ok_without_latencies_and_says_why_it_has_none(control: Control) -> None:
    effective = {"scenario": "offline", "timed_iterations": 1000}
    found = collected(control, job(**OFFLINE), [], metrics={"throughput_per_s": 2000.0}, effective=effective).record
    assert decode_record(encode_record(found)) == found
    assert (found.outcome, found.metrics["latency_ms"], found.metrics["throughput_per_s"]) == ("ok", None, 2000.0)
    absent = value(found, "latency_ms")
    assert isinstance(absent, Absent)
    assert "queued all at once" in absent.reason
    assert value(found, "throughput_per_s") == 2000.0
    assert [flag.name for flag in found.flags] == []
    assert found.intervals == {}


def test_a_run_of_another_scenario_must_have_latencies(control: Control) -> None:
    for effective in ({}, {"scenario": "streams"}):
        document = {"run_id": "r", "outcome": "ok", "effective": effective}
        control.result.write_text(json.dumps(document))
        assert "no latency samples" in (read_result(control, measured=True).fault or "")


STEADY = [1_000_000] * 20
SCATTERED = [1_000_000 + (i % 5) * 400_000 for i in range(60)]


@pytest.mark.parametrize(
    ("rates", "flagged"),
    [([100.0, 105.0, 109.0], False), ([100.0, 115.0, 105.0], True), (None, False), ([0.0, 1.0], False), ("x", False)],
)
def test_of_streams_the_rate_must_hold_still_and_not_each_request(control: Control, rates: Any, flagged: bool) -> None:
    effective = {"scenario": "streams", "window_rates_per_s": rates}
    found = collected(control, job(**STREAMS), SCATTERED, effective=effective).record
    flags = [flag for flag in found.flags if flag.name == "unstable"]
    assert bool(flags) == flagged
    assert all("100, 115, 105" in flag.evidence and "15.0 % apart" in flag.evidence for flag in flags)
    assert found.metrics["latency_p90_ms"] is None
    assert found.metrics["sample_count"] == 60


def test_one_request_in_flight_is_judged_as_before() -> None:
    told = summarise(SCATTERED, batch_size=1, wall_ns=S)
    assert [flag.name for flag in told.flags] == ["unstable"]
    assert scenario.judged(told, PROTOCOLS["quick"], {"window_rates_per_s": [1.0, 1.0]}, DEFAULTS) is told


@pytest.mark.parametrize(
    ("switches", "effective", "inputs"),
    [
        ({}, {}, 80),
        ({}, {"energy_inputs": 999}, 80),
        ({"energy_s": 5.0}, {"energy_inputs": 999}, 999),
        ({"energy_s": 5.0}, {}, 80),
        (OFFLINE, {"timed_iterations": 50}, 200),
        (OFFLINE, {}, 0),
    ],
)
def test_whose_inputs_the_energy_is_shared_out_over(
    switches: dict[str, Any], effective: dict[str, Any], inputs: int
) -> None:
    protocol: Protocol = job(**switches).protocol
    assert scenario.energy_inputs(protocol, effective, 20, 4) == inputs


TIMED, PASS = StageTime("measure", 1 * S, 3 * S), StageTime("energy", 4 * S, 10 * S)


def gpu_trace(**series: Any) -> Trace:
    """Ten samples a second for twelve seconds: 100 W in the timed stage, 300 W in the energy pass."""
    samples = []
    for i in range(121):
        t = i / 10
        watt = 300.0 if 4 <= t <= 10 else 100.0
        joule = 100 * t if t <= 4 else 400 + 300 * (t - 4) if t <= 10 else 2200 + 100 * (t - 10)
        values = {"power_instant_w": watt, "energy_mj": 1000 * joule, "sm_mhz": 1000.0 if t <= 3 else 1500.0}
        samples.append({"ns": i * S // 10, "processes": 1, "reasons": 0} | values)
    return Trace({"gpu": True, "cpus": 4}, 0.1, {"one": 1.0}, samples)


def told(energy_pass: StageTime | None, inputs: int) -> Telemetry:
    return summarise_telemetry(gpu_trace(), TIMED, kind="gpu", inputs=inputs, energy_pass=energy_pass)


def test_power_and_energy_are_those_of_the_energy_pass_and_clocks_those_of_the_timed_stage() -> None:
    found = told(PASS, 900)
    assert found.metrics["energy_per_input_j"] == pytest.approx(2.0)
    assert found.metrics["energy_trace_per_input_j"] == pytest.approx(2.0)
    assert found.metrics["gpu_power_w"] == 300.0
    assert found.metrics["gpu_clock_sm_mhz"] == 1000.0
    assert (found.facts["energy_pass"], found.facts["energy_source"]) == ("energy", "energy counter (NVML)")


def test_without_an_energy_pass_all_is_of_the_timed_stage() -> None:
    found = told(None, 900)
    assert found.metrics["gpu_power_w"] == 100.0
    assert found.withheld["energy_per_input_j"] == "the timed stage took 2 s, 5 s is the least"
    assert "energy_pass" not in found.facts


def test_a_short_energy_pass_is_named_in_the_reason() -> None:
    found = told(StageTime("energy", 4 * S, 8 * S), 900)
    assert found.withheld["energy_per_input_j"] == "the energy pass took 4 s, 5 s is the least"


def test_a_record_joins_the_energy_pass_by_its_stage(control: Control) -> None:
    stages = [{"name": s.name, "start_ns": s.start_ns, "end_ns": s.end_ns} for s in (TIMED, PASS)]
    effective = {"energy_inputs": 600}
    gpu = replace(DEVICE, kind="gpu")
    of = job(energy_s=5.0)
    (control.path / "samples/latency.i64").write_bytes(array.array("q", STEADY).tobytes())
    names = [{"name": "latency", "path": "samples/latency.i64", "count": len(STEADY)}]
    document = {"run_id": "r", "outcome": "ok", "stages": stages, "samples": names, "effective": effective}
    control.result.write_text(json.dumps(document))
    read = read_result(control, measured=True)
    run = RunFacts(Outcome.OK, None, NOW, NOW, control, Ended(REPORT, "finish"), read, trace=gpu_trace())
    found = collect(JobFacts(of, 1, gpu, STACK, {}, Path("/nowhere")), 4, run, None).record
    assert found.metrics["energy_per_input_j"] == pytest.approx(3.0)
    assert found.provenance["telemetry"]["energy_pass"] == "energy"


def test_an_energy_pass_has_time_and_the_protocols_own_limits_stay_as_they_are() -> None:
    assert "energy" not in stage_limits_s(job())
    assert stage_limits_s(job(energy_s=60.0))["energy"] == 1920.0
    assert "energy" not in STAGE_LIMITS_S, "limits of the named protocols are part of every sweep's id"
    own = replace(PROTOCOLS["quick"], energy_s=5.0, stage_limits_s={"energy": 9.0})
    assert stage_limits_s(make_job(protocol=own))["energy"] == 9.0


def judged_flags(switches: dict[str, Any], **effective: Any) -> list[tuple[str, str]]:
    protocol = replace(PROTOCOLS["quick"], **switches)
    found = scenario.judged(summarise([S] * 20, batch_size=1, wall_ns=S), protocol, effective, DEFAULTS)
    return [(flag.name, flag.level) for flag in found.flags if flag.name in ("oversubscribed", "interpreter_bound")]


def test_more_threads_than_processors_are_told_and_no_doubt() -> None:
    assert judged_flags(STREAMS, threads_at_work=5, processors=4) == [("oversubscribed", "info")]
    assert judged_flags(STREAMS, threads_at_work=4, processors=4) == []
    assert judged_flags(STREAMS) == []
    assert judged_flags({}, threads_at_work=5, processors=4) == [], "of several requests in flight alone"


def test_an_interpreter_that_hands_over_all_the_time_is_told() -> None:
    assert judged_flags(STREAMS, enqueue_threads=0.97) == [("interpreter_bound", "info")]
    assert judged_flags(STREAMS, enqueue_threads=0.4) == []
    shared = {**STREAMS, "contexts": 4}
    assert judged_flags(shared, enqueue_threads=1.9) == [], "that holds the wait for a stream that is shared"
