# SPDX-License-Identifier: Apache-2.0
"""Memory that runs out at build, load or run, and NaN: the real daemon, with stand-ins for TensorRT and CUDA."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from farm.broker.jobs import Claim, JobState, JobStore
from farm.contract.device import StackInfo
from farm.contract.job import BatchLadder, JobSpec, ModelSpec, Target
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from tests.factories import make_job
from tests.workers import standin_nvml
from tests.workers.support import FAST
from tests.workflows import standin_trt
from tests.workflows.onnx_models import save_model
from workers.daemon import nvml
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.execute import execute

pytestmark = pytest.mark.models

#: What an interpreter does that has the stand-ins installed: it is started as `PYTHON -I BUNDLE ...`.
INTERPRETER = """\
    #!{python}
    import importlib.util, runpy, sys
    spec = importlib.util.spec_from_file_location("standin_trt", {standin!r})
    standin = importlib.util.module_from_spec(spec)
    sys.modules["standin_trt"] = standin
    spec.loader.exec_module(standin)
    package = type(sys)("pycuda")
    package.__path__, package.driver = [], standin.pycuda_driver()
    sys.modules.update({{"tensorrt": standin.tensorrt(), "pycuda": package, "pycuda.driver": package.driver}})
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    """


@pytest.fixture
def gpu_bench(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A worker of a GPU that is not there, whose stack has the stand-ins."""
    library = standin_nvml.full()
    monkeypatch.setattr(nvml, "_pynvml", lambda: library)
    python = tmp_path / "python"
    text = textwrap.dedent(INTERPRETER).format(python=sys.executable, standin=standin_trt.__file__)
    python.write_text(text)
    python.chmod(0o700)
    stack = bench.settings.stacks["default"]
    bench.settings.stacks["default"] = stack.model_copy(update={"python": str(python)})
    modules = {"tensorrt": "8.6.0", "numpy": "2", "onnx": "1", "onnxruntime": "1"}
    stacks = [StackInfo("default", str(python), "3.11.0", modules)]
    return replace(bench, device=nvml.gpu_devices("box", library)[0], stacks=stacks)


Run = Callable[..., dict[int, Record]]


@pytest.fixture
def run(gpu_bench: Bench, jobs: JobStore, tmp_path: Path) -> Run:
    """Execute a job of four batch sizes with a limit of the stand-in; its records by batch size."""

    def do(job_id: str = "job", sizes: tuple[int, ...] = (1, 2, 4, 8), **limits: int) -> dict[int, Record]:
        bench = gpu_bench
        environment = {f"STANDIN_{name.upper()}": str(limit) for name, limit in limits.items()}
        stack = bench.settings.stacks["default"]
        bench.settings.stacks["default"] = stack.model_copy(update={"env": environment})
        sha256 = bench.store.blobs.put_file(save_model(tmp_path / "given.onnx")).sha256
        job = make_job(
            job_id=job_id,
            model=ModelSpec("mine", "onnx", (3, 16, 16), onnx_sha256=sha256),
            workflow="onnx_tensorrt",
            batches=BatchLadder(sizes),
            protocol=FAST,
            target=Target(device_id=bench.device.device_id),
        )
        execute(bench, jobs, _claim(jobs, bench, job), boottime())
        found = (bench.store.records.read(job.run_id(s)) for s in sizes if bench.store.records.exists(job.run_id(s)))
        return {record.batch_size or 0: record for record in found}

    return do


def _claim(jobs: JobStore, bench: Bench, job: JobSpec) -> Claim:
    jobs.submit(job.sweep_id, job.sweep_name, 5, [job])
    assert jobs.dispatch(job.job_id, bench.device.device_id)
    claim = jobs.claim(job.job_id, bench.device.device_id, "test", bench.settings.lease_s)
    assert isinstance(claim, Claim)
    return claim


@pytest.mark.parametrize(
    ("where", "stage", "reference"),
    [
        ("build_limit", "build", "out-of-memory-build"),
        ("load_limit", "load_engine", "out-of-memory"),
        ("run_limit", "first_inference", "out-of-memory"),
    ],
)
def test_out_of_memory_is_told_apart_and_the_last_record_says_how_far_the_ladder_got(
    run: Run, jobs: JobStore, where: str, stage: str, reference: str
) -> None:
    found = run(**{where: 4})
    assert {size: record.outcome for size, record in found.items()} == {
        1: Outcome.OK,
        2: Outcome.OK,
        4: Outcome.OUT_OF_MEMORY,
    }
    last = found[4]
    assert last.failure is not None
    assert (last.failure.stage, last.failure.reference) == (stage, reference)
    assert (last.ladder_stop, last.metrics["largest_batch_ok"]) == ("out_of_memory", 2.0)
    assert all("largest_batch_ok" not in found[size].metrics for size in (1, 2))
    view = jobs.get("job")
    assert view is not None
    assert view.state is JobState.DONE


def test_memory_that_runs_out_at_the_first_build_ends_the_ladder_with_nothing_that_ran(run: Run) -> None:
    found = run(build_limit=1)
    assert {record.outcome for record in found.values()} == {Outcome.OUT_OF_MEMORY}
    assert {record.failure.stage for record in found.values() if record.failure} == {"build"}
    assert (found[8].ladder_stop, found[8].metrics["largest_batch_ok"]) == ("out_of_memory", None)


def test_outputs_that_are_not_finite_fail_in_their_stage_and_the_worker_goes_on(run: Run) -> None:
    found = run(sizes=(1, 2), poison=1)
    for record in found.values():
        assert record.outcome is Outcome.FAILED
        assert record.failure is not None
        assert (record.failure.stage, record.failure.reference) == ("outputs", "nonfinite-outputs")
        assert record.failure.hint
        assert record.metrics["latency_ms"]
    assert (found[2].ladder_stop, found[2].metrics["largest_batch_ok"]) == ("end", None)
    (after,) = run(job_id="next", sizes=(1,)).values()
    assert after.outcome is Outcome.OK, after.failure
    assert after.metrics["largest_batch_ok"] == 1.0
