# SPDX-License-Identifier: Apache-2.0
"""What the tests of the worker share: waiting, looking at processes, runners made of a few lines of Python."""

from __future__ import annotations

import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from farm.broker.jobs import Claim, JobStore
from farm.contract.device import DeviceInfo
from farm.contract.job import AccuracySpec, BatchLadder, JobSpec, ModelSpec, Protocol, Target
from farm.contract.record import Record
from farm.contract.run import RunRequest
from tests.factories import make_job
from workers.daemon import control
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.execute import execute

#: What a stub runner may use: it appends events and writes the result like the real one.
PRELUDE = """
import json, os, signal, subprocess, sys, time
DIR = sys.argv[1]
REQUEST = json.load(open(os.path.join(DIR, "request.json")))
def event(kind, stage, **more):
    with open(os.path.join(DIR, "events.jsonl"), "a") as stream:
        stream.write(json.dumps(dict(kind=kind, stage=stage, monotonic_ns=time.monotonic_ns(), **more)) + "\\n")
def result(**more):
    document = dict(run_id=REQUEST["run_id"], outcome="ok", **more)
    with open(os.path.join(DIR, "result.json.tmp"), "w") as stream:
        json.dump(document, stream)
    os.replace(os.path.join(DIR, "result.json.tmp"), os.path.join(DIR, "result.json"))
"""

FAST = Protocol(
    name="test",
    warmup_min_iterations=1,
    warmup_min_s=0.0,
    min_iterations=12,
    min_s=0.0,
    max_iterations=12,
    max_s=60.0,
    threads=1,
    stage_limits_s={"default": 60.0},
)


def write_bundle(directory: Path, script: str) -> Path:
    """A bundle whose runner is `script`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "__main__.py").write_text(PRELUDE + textwrap.dedent(script))
    return directory


def make_control(tmp_path: Path, job: JobSpec | None = None, batch_size: int | None = 1) -> control.Control:
    """A prepared control directory."""
    job = job or make_job()
    device = DeviceInfo("box-cpu", "cpu-test", "cpu", "box", "Test CPU")
    mode = "prepare" if batch_size is None else "measure"
    request = RunRequest(job.run_id(batch_size), mode, job, device, str(tmp_path / "cache"), batch_size)
    return control.prepare(tmp_path / "work", request, 1)


def fake_job(job_id: str, device_id: str, sizes: tuple[int, ...] = (1,), **options: Any) -> JobSpec:
    """A job of the fake workflow. `limits` is the protocol's `stage_limits_s`, `switches` others; `until` the ladder's.

    `accuracy=True` asks for one on the digits: the fake workflow gets a tenth of them right.
    """
    limits, switches = options.pop("limits", FAST.stage_limits_s), options.pop("switches", {})
    asked = {"data": "digits", "accuracy": AccuracySpec("digits")} if options.pop("accuracy", False) else {}
    until = options.pop("until", ("out_of_memory",))
    return make_job(
        job_id=job_id,
        model=ModelSpec(name="nothing", source="fake", input_shape=(3, 8, 8)),
        workflow="fake",
        batches=BatchLadder(sizes=sizes, until=until),
        protocol=replace(FAST, stage_limits_s=limits, **switches),
        target=Target(device_id=device_id),
        options={"latency_ms": 1.0, **options},
        **asked,
    )


def wait_until(condition: Callable[[], object], what: str, limit_s: float = 180.0) -> Any:
    """The first true value of `condition`; fails naming `what` after `limit_s`."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {limit_s} s")


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def marked(text: str) -> list[int]:
    """The processes whose environment holds `text`."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if text.encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
    return found


def run_python(script: str, *arguments: str) -> list[str]:
    """The command line that runs `script` in this interpreter, with this tree importable."""
    return [sys.executable, "-c", textwrap.dedent(script), *arguments]


def records(bench: Bench, job: JobSpec) -> dict[int | None, Record]:
    """The records of a job's ladder, by batch size."""
    found = [
        bench.store.records.read(job.run_id(s)) for s in job.batches.sizes if bench.store.records.exists(job.run_id(s))
    ]
    return {record.batch_size: record for record in found}


class Background:
    """A job that runs while the test does something to it."""

    def __init__(self, bench: Bench, jobs: JobStore, claim: Claim) -> None:
        self.said = ""
        self._job = claim.job
        self._jobs = jobs
        self._thread = threading.Thread(target=self._run, args=(bench, jobs, claim))
        self._thread.start()

    def _run(self, bench: Bench, jobs: JobStore, claim: Claim) -> None:
        self.said = execute(bench, jobs, claim, boottime())

    def in_stage(self, stage: str, batch_size: int | None = None, process: str | None = None) -> None:
        """Wait until the job is there; `process` is `process 2 of 3`."""

        def there() -> bool:
            view = self._jobs.get(self._job.job_id)
            progress = view.progress if view else {}
            at = progress.get("batch_size"), progress.get("process")
            return progress.get("stage") == stage and batch_size in (None, at[0]) and process in (None, at[1])

        wait_until(there, f"stage {stage}")

    def runner_pid(self, batch_size: int) -> int:
        """The process that measures now."""
        return int(wait_until(lambda: marked(f"INFERFARM_RUN={self._job.run_id(batch_size)}"), "runner")[0])

    def join(self) -> str:
        """Wait for the job's end; what was said of it."""
        self._thread.join(timeout=120)
        assert not self._thread.is_alive()
        return self.said
