# SPDX-License-Identifier: Apache-2.0
"""Run the island as the daemon does: copied to a directory of its own, started by path in some interpreter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from farm.contract.codec import from_json, to_json
from farm.contract.job import BatchLadder, Calibration, JobSpec, ModelSpec, Protocol
from farm.contract.names import EVENTS_FILE, REQUEST_FILE, RESULT_FILE
from farm.contract.run import ArtifactFile, Event, PinnedFile, RunRequest, RunResult
from tests.factories import DEVICE, make_job

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("farm/contract", "workers/runner", "workers/workflows")
FOREIGN_VERSIONS = ("3.8", "3.10")

TINY = Protocol(
    name="tiny",
    warmup_min_iterations=2,
    warmup_min_s=0.0,
    min_iterations=5,
    min_s=0.0,
    max_iterations=5,
    max_s=60.0,
)
NOTHING = ModelSpec(name="nothing", source="fake")
#: For torch_compile: with few kernels, and no more shapes than one, it is compiled soon, and once for all tests.
COMPILED = ModelSpec("bert-tiny", "encoder", (16,))
#: What a runner gets of a test's environment.
_KEPT = {name: os.environ[name] for name in ("PATH", "OMP_WAIT_POLICY") if name in os.environ}


def stage_bundle(target: Path) -> Path:
    """Copy the island, and nothing else, to `target`."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
        top = Path(package).parts[0]
        shutil.copy(ROOT / top / "__init__.py", target / top / "__init__.py")
    shutil.copy(ROOT / "workers/runner/__main__.py", target / "__main__.py")
    return target


def find_python(version: str) -> Path | None:
    """An interpreter of that version: pyenv's, else one on PATH."""
    candidates = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    if candidates:
        return candidates[-1]
    found = shutil.which(f"python{version}")
    return Path(found) if found else None


def require_python(version: str) -> Path:
    """As `find_python`; without one the test is skipped, or fails where CI says that everything must be there."""
    found = find_python(version)
    if found is not None:
        return found
    reason = f"no Python {version} under ~/.pyenv/versions or on PATH"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def fake_job(**options: Any) -> JobSpec:
    """A job of the fake workflow with the tiny protocol."""
    return make_job(workflow="fake", model=NOTHING, protocol=TINY, options={"latency_ms": 1.0} | options)


@dataclass(frozen=True)
class Finished:
    """A runner that has ended. `result` is None where it left none that can be read."""

    code: int
    control: Path
    result: RunResult | None
    events: list[Event]
    output: str

    def ok(self) -> RunResult:
        """The result of a run that must have gone well."""
        assert self.result is not None, self.output
        assert self.result.outcome == "ok", self.result.failure
        assert self.code == 0
        return self.result

    def failed(self, outcome: str, reference: str) -> RunResult:
        """The result of a run that must have ended in that outcome, properly."""
        assert self.result is not None, self.output
        assert self.result.failure is not None, self.result
        assert (self.result.outcome, self.result.failure.reference) == (outcome, reference), self.result.failure
        assert self.code == 0
        return self.result

    def samples(self, name: str = "latency") -> list[int]:
        """Raw samples in ns, read as a stranger would."""
        data = (self.control / "samples" / f"{name}.i64").read_bytes()
        return [int.from_bytes(data[i : i + 8], "little", signed=True) for i in range(0, len(data), 8)]


@dataclass(frozen=True)
class Running:
    """A runner that runs. Ends with the test, whatever happens."""

    process: subprocess.Popen[bytes]
    control: Path

    def events(self) -> list[Event]:
        """The events so far; a line that is still being written is left out."""
        path = self.control / EVENTS_FILE
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [from_json(Event, json.loads(line)) for line in lines]

    def has_started(self, stage: str) -> bool:
        """Whether the stage has begun."""
        return any(event.kind == "stage_start" and event.stage == stage for event in self.events())


@dataclass
class Island:
    """A staged bundle with one cache; runs go to numbered control directories below `directory`."""

    bundle: Path
    directory: Path
    python: Path
    count: int = field(default=0)

    def start(
        self,
        job: JobSpec,
        batch_size: int | None = None,
        *,
        mode: str | None = None,
        model_file: Path | None = None,
        pinned: Sequence[PinnedFile] = (),
        env: Mapping[str, str] | None = None,
        preexec: Callable[[], None] | None = None,
    ) -> Running:
        """Start a prepare (no batch size), a measure, or what `mode` says."""
        request = RunRequest(
            run_id=job.run_id(batch_size),
            mode=mode or ("prepare" if batch_size is None else "measure"),
            job=job,
            device=DEVICE,
            cache_dir=str(self.directory / "cache"),
            batch_size=batch_size,
            model_file=str(model_file) if model_file else None,
            pinned=list(pinned),
        )
        return self.start_document(to_json(request), env=env, preexec=preexec)

    def start_document(
        self, document: Any, env: Mapping[str, str] | None = None, preexec: Callable[[], None] | None = None
    ) -> Running:
        """Start a runner on any request document at all; text is written as it is."""
        self.count += 1
        control = self.directory / f"run-{self.count}"
        control.mkdir(parents=True)
        text = document if isinstance(document, str) else json.dumps(document)
        (control / REQUEST_FILE).write_text(text)
        with (control / "runner.log").open("wb") as log:
            process = subprocess.Popen(
                [str(self.python), "-I", str(self.bundle), str(control)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_KEPT | {"HOME": str(self.directory)} | dict(env or {}),
                preexec_fn=preexec,
                start_new_session=True,
                cwd=control,
            )
        return Running(process, control)

    def finish(self, running: Running, timeout_s: float = 480.0) -> Finished:
        """Wait for the end and read what it left."""
        try:
            code = running.process.wait(timeout=timeout_s)
        finally:
            running.process.kill()
            running.process.wait(timeout=120)
        return Finished(
            code=code,
            control=running.control,
            result=_read_result(running.control / RESULT_FILE),
            events=running.events(),
            output=(running.control / "runner.log").read_text(errors="replace"),
        )

    def run(self, job: JobSpec, batch_size: int | None = None, **more: Any) -> Finished:
        """Start and finish."""
        return self.finish(self.start(job, batch_size, **more))

    def prepare(self, job: JobSpec, **more: Any) -> RunResult:
        """A prepare that must go well."""
        return self.run(job, **more).ok()

    def measure(self, job: JobSpec, batch_size: int = 1, **more: Any) -> RunResult:
        """A measure that must go well."""
        return self.run(job, batch_size, **more).ok()

    def evaluate(self, job: JobSpec, batch_size: int = 1, **more: Any) -> RunResult:
        """An accuracy that must be taken."""
        return self.run(job, batch_size, mode="accuracy", **more).ok()


def _read_result(path: Path) -> RunResult | None:
    try:
        return from_json(RunResult, json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError):
        return None


def artifact(result: RunResult, kind: str) -> ArtifactFile:
    """The one artifact of that kind."""
    (found,) = [a for a in result.artifacts if a.kind == kind]
    return found


def model_job(model: ModelSpec | str, workflow: str, precision: str = "fp32", **more: Any) -> JobSpec:
    """A small job of a real model: 64 x 64 inputs, one batch size unless told."""
    if isinstance(model, str):
        model = ModelSpec(name=model, input_shape=(3, 64, 64))
    fields: dict[str, Any] = {"batches": BatchLadder(sizes=(1,)), "protocol": TINY} | more
    if precision == "int8":
        fields.setdefault("calibration", Calibration(samples=8, batch=4))
    return make_job(model=model, workflow=workflow, precision=precision, **fields)


def with_protocol(job: JobSpec, **changes: Any) -> JobSpec:
    """The job with other switches of its protocol."""
    return replace(job, protocol=replace(job.protocol, **changes))
