# SPDX-License-Identifier: Apache-2.0
"""The telemetry process for real: it samples, it ends with its daemon, and it never keeps a run waiting."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from farm.broker.jobs import Claim, JobStore
from farm.contract.device import DeviceInfo
from farm.contract.job import JobSpec
from farm.contract.outcome import Outcome
from tests.workers.support import fake_job, is_alive, run_python, wait_until
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.control import Control
from workers.daemon.execute import execute
from workers.daemon.reporter import Progress
from workers.daemon.telemetry import process
from workers.daemon.telemetry.process import TelemetryProcess

pytestmark = pytest.mark.alone
MakeClaim = Callable[[JobSpec], Claim]
DEVICE = DeviceInfo("box-cpu", "cpu-test", "cpu", "box", "Test CPU")


def lines(control: Control) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (control.path / "telemetry.jsonl").read_bytes().count(b"\n")
    return 0


def test_it_samples_at_its_rate_and_says_what_it_costs(control: Control) -> None:
    with TelemetryProcess(DEVICE, control, 50) as telemetry:
        wait_until(lambda: lines(control) > 40, "samples")
    trace = telemetry.trace
    assert trace.problem is None
    times = [sample["ns"] for sample in trace.samples]
    assert times == sorted(times)
    assert (times[-1] - times[0]) / 1e9 == pytest.approx(len(times) / 50, rel=0.5)
    cost = trace.rate("own_cpu_s", 0.2)
    assert cost is not None
    assert 0 < cost < 0.5
    assert trace.cost_us["cpu_times"] > 0
    assert trace.values("cpu_busy_s")
    assert telemetry.pid is not None
    assert not is_alive(telemetry.pid)


def test_borders_of_the_timed_stage_are_seen_in_the_events(control: Control, tmp_path: Path) -> None:
    standin = tmp_path / "standin"
    standin.mkdir()
    (standin / "pynvml.py").write_text(
        "import sys\nfrom tests.workers.standin_nvml import full\nsys.modules[__name__] = full()\n"
    )
    uuid = "GPU-0123abcd-1111-2222-3333-444455556666"
    device = replace(DEVICE, kind="gpu", facts={"uuid": uuid})
    real = process.environment()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "environment", lambda: real | {"PYTHONPATH": f"{standin}:{real['PYTHONPATH']}"})
        with TelemetryProcess(device, control, 50) as telemetry:
            wait_until(lambda: lines(control) > 3, "samples")
            with control.events.open("a") as stream:
                for stage in ("warm_up", "measure"):
                    stream.write(json.dumps({"kind": "stage_start", "stage": stage, "monotonic_ns": 5}) + "\n")
            border = lines(control)
            wait_until(lambda: lines(control) > border + 3, "samples")
    trace = telemetry.trace
    assert trace.problem is None
    assert trace.facts["gpu"] is True
    assert len(trace.points("energy_mj")) == 3  # first sample, border, last sample
    assert len(trace.points("set:power_limit_w")) == 2


DAEMON = """
import sys, time
from pathlib import Path
from farm.contract.device import DeviceInfo
from workers.daemon.control import Control
from workers.daemon.telemetry.process import TelemetryProcess
with TelemetryProcess(DeviceInfo("box-cpu", "c", "cpu", "box", "n"), Control(Path(sys.argv[1])), 50) as telemetry:
    print(telemetry.pid, flush=True)
    time.sleep(600)
"""


def test_it_dies_with_a_daemon_that_is_killed(control: Control) -> None:
    daemon = subprocess.Popen(run_python(DAEMON, str(control.path)), stdout=subprocess.PIPE, text=True)
    with daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        wait_until(lambda: lines(control) > 2, "samples")
        assert is_alive(pid)
        os.kill(daemon.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the end of the telemetry process")


def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """Put other code in the sampler's place."""
    (tmp_path / "broken_sampler.py").write_text(body)
    monkeypatch.setattr(process, "_MODULE", "broken_sampler")
    real = process.environment()
    monkeypatch.setattr(process, "environment", lambda: real | {"PYTHONPATH": f"{tmp_path}:{real['PYTHONPATH']}"})


HANGS = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    signal.pause()
"""


@pytest.mark.parametrize(
    ("body", "evidence"),
    [(HANGS, "did not end within 0.5 s"), ("raise SystemExit('no driver')", "status 1; it wrote: no driver")],
    ids=["hangs", "fails"],
)
def test_a_telemetry_process_in_trouble_costs_the_run_nothing_but_its_telemetry(
    body: str,
    evidence: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    bench: Bench,
    jobs: JobStore,
    claim: MakeClaim,
) -> None:
    module(monkeypatch, tmp_path, body)
    monkeypatch.setattr(process, "STOP_LIMIT_S", 0.5)
    job = fake_job("job", bench.device.device_id)
    execute(bench, jobs, claim(job), boottime())
    record = bench.store.records.read(job.run_id(1))
    assert record.outcome is Outcome.OK, record.failure
    assert record.metrics["sample_count"] == 12
    assert record.metrics["cpu_temperature_c"] is None
    (flag,) = [flag for flag in record.flags if flag.name == "no_telemetry"]
    assert flag.level == "suspect"
    assert evidence in flag.evidence
    assert "telemetry" not in {ref.kind for ref in record.artifacts}


def test_an_interpreter_that_cannot_be_started_is_a_flag_too(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with TelemetryProcess(DEVICE, control, 50) as telemetry:
        pass
    assert "could not be started" in (telemetry.trace.problem or "")


def test_it_finds_libraries_where_its_daemon_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("ANSWER = 42\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = "import only_here, workers.daemon.telemetry.sampler; print(only_here.ANSWER)"
    argv = [sys.executable, "-P", "-c", code]
    done = subprocess.run(argv, env=process.environment(), cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"


def test_no_rate_is_no_telemetry(bench: Bench, jobs: JobStore, claim: MakeClaim) -> None:
    bench.settings.telemetry_hz = 0
    job = fake_job("job", bench.device.device_id)
    execute(bench, jobs, claim(job), boottime())
    record = bench.store.records.read(job.run_id(1))
    assert "telemetry" not in record.provenance
    assert "no_telemetry" not in {flag.name for flag in record.flags}


BURN = "while True: pass"


def test_others_at_work_during_a_run_spoil_its_record_and_it_is_tried_again(
    bench: Bench, jobs: JobStore, claim: MakeClaim
) -> None:
    """A real load on this machine's processors, from soon after the first try's clock has started."""
    bench.settings.suspect_retries = 1
    job = fake_job("job", bench.device.device_id, latency_ms=300.0)
    burners: list[subprocess.Popen[bytes]] = []

    def load(progress: Progress) -> None:
        if progress["stage"] == "measure" and not burners:
            burners.extend(subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(2))

    try:
        execute(bench, jobs, claim(job), boottime(), load)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    record = bench.store.records.read(job.run_id(1))
    (flag,) = [flag for flag in record.flags if flag.name == "foreign_process"]
    assert flag.level in ("suspect", "invalid")
    assert "processors at work" in flag.evidence
    (earlier,) = record.provenance["earlier_tries"]
    assert "foreign_process" in {flag["name"] for flag in earlier["flags"]}
    assert earlier["started_at"] < record.started_at
    assert (record.metrics["telemetry_cpu_share"] or 0) < 0.2
