# SPDX-License-Identifier: Apache-2.0
"""`onnxruntime_cuda` and `onnxruntime_trt`: refused where there is no GPU, and their steps with a CPU in its place."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.contract.canonical import sha256_file
from farm.contract.codec import from_json, to_json
from farm.contract.device import DeviceInfo
from farm.contract.job import BatchLadder, Calibration, JobSpec, ModelSpec, Rebuild
from farm.contract.run import RunRequest, RunResult
from tests.island.harness import TINY, Island, artifact, model_job
from tests.workflows.onnx_models import save_model

pytest.importorskip("onnxruntime")
from tests.workflows import standin_ort
from workers.workflows import cuda_graph, ort_options, ort_table
from workers.workflows.errors import WorkflowError

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]

WORKFLOWS = ("onnxruntime_cuda", "onnxruntime_trt")
PRECISIONS = ("fp32", "tf32", "fp16", "int8")
GPU = DeviceInfo("box-gpu0", "nvidia-x", "gpu", "box", "X", {"uuid": "GPU-0", "compute_capability": "9.0"})
Run = Callable[..., RunResult]
Job = Callable[..., JobSpec]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "given.onnx")


@pytest.fixture
def job(model: Path) -> Job:
    def make(
        workflow: str,
        precision: str = "fp32",
        sizes: tuple[int, ...] = (1, 4),
        boundary: str = "compute",
        method: str = "entropy",
        **options: object,
    ) -> JobSpec:
        spec = ModelSpec("mine", "onnx", (3, 16, 16), onnx_sha256=sha256_file(str(model)))
        calibration = Calibration(method, 8, 4) if precision == "int8" else None
        protocol = replace(TINY, boundary=boundary)
        made = model_job(spec, workflow, precision, batches=BatchLadder(sizes), calibration=calibration)
        return replace(made, protocol=protocol, options=dict(options))

    return make


@pytest.mark.parametrize("workflow", WORKFLOWS)
@pytest.mark.parametrize("batch", [None, 1])
def test_a_stack_without_the_provider_is_refused_before_anything_is_made(
    alone: Island, job: Job, model: Path, workflow: str, batch: int | None
) -> None:
    refused = alone.run(job(workflow), batch, model_file=model).failed("unsupported", "provider-not-loadable").failure
    assert refused is not None
    assert refused.stage == "start"
    assert "ExecutionProvider: onnxruntime 1." in refused.message
    assert "is built without it; it has " in refused.message
    assert "farm probe" in (refused.hint or "")
    assert not (alone.directory / "cache").exists()


@pytest.mark.parametrize(("precision", "forced"), [("fp32", "1"), ("int8", "1"), ("tf32", "0")])
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_an_environment_that_forces_tf32_the_other_way_is_refused(
    alone: Island, job: Job, model: Path, workflow: str, precision: str, forced: str
) -> None:
    done = alone.run(job(workflow, precision), model_file=model, env={"NVIDIA_TF32_OVERRIDE": forced})
    failure = done.failed("failed", "precision-not-held").failure
    assert failure is not None
    assert f"NVIDIA_TF32_OVERRIDE={forced}" in failure.message


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> standin_ort.TensorRT:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "to be restored")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    return standin_ort.install(monkeypatch)


@pytest.fixture
def run(tmp_path: Path, model: Path, tensorrt: standin_ort.TensorRT, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Prepare (no batch) or measure in this process."""
    count = iter(range(100))

    def do(spec: JobSpec, batch: int | None = None) -> RunResult:
        from workers.runner.stages import run_request

        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)  # each run is a process of its own
        control = tmp_path / f"run-{next(count)}"
        control.mkdir()
        mode = "prepare" if batch is None else "measure"
        request = RunRequest("r", mode, spec, GPU, str(tmp_path / "cache"), batch, str(model))
        (control / "request.json").write_text(json.dumps(to_json(request)))
        run_request(str(control))
        return from_json(RunResult, json.loads((control / "result.json").read_text()))

    return do


def ok(result: RunResult) -> RunResult:
    assert result.outcome == "ok", result.failure
    return result


def failed(result: RunResult, outcome: str, reference: str) -> str:
    assert (result.outcome, result.failure and result.failure.reference) == (outcome, reference), result.failure
    return result.failure.message if result.failure else ""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("boundary", ["compute", "end_to_end"])
def test_a_cuda_job_goes_from_file_to_samples(run: Run, job: Job, precision: str, boundary: str) -> None:
    spec = job("onnxruntime_cuda", precision, boundary=boundary)
    prepared = ok(run(spec))
    assert json.loads(Path(artifact(prepared, "ort_profile").path).read_text())
    for batch in (1, 4):
        found = ok(run(spec, batch))
        off = None if precision == "tf32" else "0"
        expected = f"NVIDIA_TF32_OVERRIDE={off}" if off else "NVIDIA_TF32_OVERRIDE is not set"
        assert found.effective["precision"] == precision
        assert found.effective["tf32_held_by"]["environment"] == expected
        assert found.effective["tf32"] == (precision == "tf32")
        assert found.effective["threads"] >= 1
        assert found.metrics["fallback_node_share"] == 0.0
        assert found.metrics["relative_l2_error"] < {"fp16": 2e-3, "int8": 0.1}.get(precision, 1e-6)
        assert (found.metrics["relative_l2_error"] > 1e-6) == (precision in ("fp16", "int8"))
        assert all(a.cached for a in found.artifacts)
    if precision == "int8":
        assert found.effective["activation_type"] == "qint8"
        assert 0 <= found.effective["int8_kernel_share"] <= 1
    if precision == "fp16":
        assert artifact(prepared, "onnx_fp16")
        assert found.effective["converter"] == "onnxruntime"


@pytest.mark.parametrize(
    ("workflow", "precision"), [("onnxruntime_cuda", "fp16"), ("onnxruntime_cuda", "int8"), ("onnxruntime_trt", "int8")]
)
def test_token_ids_are_fed_as_they_are(run: Run, job: Job, workflow: str, precision: str) -> None:
    pytest.importorskip("torch")
    spec = replace(job(workflow, precision, sizes=(2,)), model=ModelSpec("bert-tiny", "encoder", (8,)))
    ok(run(spec))
    found = ok(run(spec, 2))
    assert found.effective["precision"] == precision
    assert found.mismatch[0].element_count == 2 * 8 * 128
    limit = 1e-5 if workflow == "onnxruntime_trt" else {"fp16": 5e-3, "int8": 0.1}[precision]
    assert found.metrics["relative_l2_error"] < limit, "the stand-in of TensorRT runs the fp32 file"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("boundary", ["compute", "end_to_end"])
def test_a_trt_job_builds_an_engine_for_each_batch_and_measuring_builds_none(
    run: Run, job: Job, tensorrt: standin_ort.TensorRT, precision: str, boundary: str
) -> None:
    spec = job("onnxruntime_trt", precision, boundary=boundary)
    prepared = ok(run(spec))
    kinds = [a.kind for a in prepared.artifacts]
    assert (kinds.count("ort_engine"), kinds.count("ort_profile")) == (2, 2)
    assert ("ort_table" in kinds) == (precision == "int8")
    assert "onnx_int8" not in kinds and "onnx_fp16" not in kinds
    assert len(tensorrt.built) == 2
    for batch in (1, 4):
        found = ok(run(spec, batch))
        assert (found.effective["precision"], found.effective["profile"]) == (precision, [batch] * 3)
        assert found.effective["tensorrt_subgraphs"] == 1
        assert found.effective["provider_options"]["TensorrtExecutionProvider"]["trt_dump_subgraphs"] == "False"
        assert found.metrics["build_s"] > 0
        assert 0 < found.metrics["engine_bytes"] < 10_000
        assert 0 < found.metrics["fallback_node_share"] < 1
        if precision == "int8":
            table = found.effective["calibration_table"]
            assert table["compute_covered"] == table["compute"] == 2
    assert len(tensorrt.built) == 2
    ok(run(spec))
    assert len(tensorrt.built) == 2, "preparing again builds nothing"


def with_switches(spec: JobSpec, **switches: object) -> JobSpec:
    return replace(spec, protocol=replace(spec.protocol, min_iterations=12, max_iterations=12, **switches))


@pytest.mark.parametrize("boundary", ["compute", "end_to_end"])
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_lanes_are_threads_of_one_session_or_for_tensorrt_sessions_of_their_own(
    run: Run, job: Job, tensorrt: standin_ort.TensorRT, workflow: str, boundary: str
) -> None:
    spec = with_switches(job(workflow, sizes=(4,), boundary=boundary), scenario="streams", streams=3)
    ok(run(spec))
    tensorrt.opened.clear()
    found = ok(run(spec, 4))
    assert sum(found.effective["lane_counts"]) == 12
    assert found.metrics["relative_l2_error"] < 1e-6
    if workflow == "onnxruntime_trt":
        assert found.effective["sessions"] == len(tensorrt.opened) == 3
        assert len(tensorrt.built) == 1, "each session loads the engine, none builds one"


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_protocol_says_how_many_sessions_the_lanes_share(
    run: Run, job: Job, tensorrt: standin_ort.TensorRT, workflow: str
) -> None:
    spec = with_switches(job(workflow, sizes=(4,)), scenario="streams", streams=3, sessions=2)
    ok(run(spec))
    tensorrt.opened.clear()
    found = ok(run(spec, 4))
    assert (found.effective["sessions"], len(found.effective["lane_counts"])) == (2, 3)
    assert found.metrics["relative_l2_error"] < 1e-6
    if workflow == "onnxruntime_trt":
        assert (len(tensorrt.opened), len(tensorrt.built)) == (2, 1)


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_offline_queues_runs_without_waiting_for_each(
    run: Run, job: Job, workflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = with_switches(job(workflow, sizes=(4,)), scenario="offline")
    ok(run(spec))
    asked: list[tuple[str, str]] = []
    options = type("RunOptions", (standin_ort.RunOptions,), {"add_run_config_entry": _noted(asked)})
    monkeypatch.setattr("onnxruntime.RunOptions", options)
    found = ok(run(spec, 4))
    assert found.effective["timed_iterations"] == 12
    assert asked == [("disable_synchronize_execution_providers", "1")]
    assert found.metrics["relative_l2_error"] < 1e-6


def _noted(asked: list[tuple[str, str]]) -> Callable[..., None]:
    def add(self: Any, key: str, value: str) -> None:
        asked.append((key, value))
        super(type(self), self).add_run_config_entry(key, value)

    return add


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sessions that launch a graph from their first run on, as ONNX Runtime does; device copies on the host."""
    return standin_ort.install_graphs(monkeypatch)


@pytest.mark.parametrize(
    ("boundary", "inputs", "told", "copies"),
    [
        ("compute", "rotated", cuda_graph.COPIED, True),
        ("compute", "warm", cuda_graph.EACH_INPUT, False),
        ("end_to_end", "rotated", cuda_graph.ONE_MEMORY, False),
    ],
)
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_cuda_graph_is_held_to_by_a_run_that_must_not_write(
    run: Run, job: Job, graphs: list[str], workflow: str, boundary: str, inputs: str, told: str, copies: bool
) -> None:
    spec = with_switches(job(workflow, sizes=(4,), boundary=boundary, cuda_graph=True), inputs=inputs)
    ok(run(spec))
    graphs.clear()
    found = ok(run(spec, 4))
    held = found.effective["cuda_graph"]
    assert (held["asked"], held["captured"], held["graphs"], held["inputs"]) == (True, True, 1, told)
    assert ("copy" in graphs) == copies
    assert set(graphs) <= {"copy", "capture", "replay"}
    assert graphs.count("capture") == 1
    assert found.metrics["relative_l2_error"] < 1e-6


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_session_that_goes_on_without_a_graph_is_found_out(run: Run, job: Job, workflow: str) -> None:
    """The CPU's provider runs node by node, as a GPU's would if it left the graph out without a word."""
    spec = job(workflow, sizes=(4,), cuda_graph=True)
    ok(run(spec))
    found = run(spec, 4)
    assert "node by node" in failed(found, "unsupported", "cuda-graph-not-captured")
    assert found.failure is not None
    assert found.failure.stage == "load_engine"


def test_a_model_that_the_provider_refuses_to_capture_is_an_answer(
    run: Run, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job("onnxruntime_cuda", sizes=(4,), cuda_graph=True)
    ok(run(spec))

    def refuse(*_: Any) -> None:
        words = "This session cannot use the CUDA Graph feature as requested by the user as all the graph nodes have"
        raise WorkflowError(words)

    monkeypatch.setattr("workers.workflows.onnx_session.open_session", refuse)
    failed(run(spec, 4), "unsupported", "cuda-graph-not-captured")


def test_providers_are_told_of_graphs_to_measure_and_not_to_prepare(
    run: Run, job: Job, tensorrt: standin_ort.TensorRT, graphs: list[str]
) -> None:
    assert "enable_cuda_graph" not in ort_options.cuda_options("1.17.1", "fp32")
    assert ort_options.cuda_options("1.17.1", "fp32", True)["enable_cuda_graph"] == "1"
    spec = job("onnxruntime_trt", sizes=(4,), cuda_graph=True)
    ok(run(spec))
    assert ["trt_cuda_graph_enable" in options for options in tensorrt.opened] == [False]
    ok(run(spec, 4))
    assert tensorrt.opened[-1]["trt_cuda_graph_enable"] == "True"


def test_each_of_a_sweeps_rebuilds_is_built_and_cold_ones_without_timings(
    run: Run, job: Job, tensorrt: standin_ort.TensorRT
) -> None:
    plain = job("onnxruntime_trt", sizes=(1,))
    ok(run(plain))
    for i, timing_cache in enumerate(("cold", "shared")):
        spec = replace(plain, job_id=f"job-{i}", rebuild=Rebuild(i, 2, timing_cache))
        ok(run(spec))
        found = ok(run(spec, 1)).effective
        assert (found["timing_cache_bytes_before"] == 0) == (timing_cache == "cold")
        assert found["rebuild"]["timing_cache"] == timing_cache
        assert len(found["engine_sha256"]) == 64
    assert len(tensorrt.built) == 3


def test_the_archive_holds_engines_profiles_timings_and_the_table(run: Run, job: Job) -> None:
    prepared = ok(run(job("onnxruntime_trt", "int8", sizes=(4,))))
    with zipfile.ZipFile(artifact(prepared, "ort_engine").path) as archive:
        names = archive.namelist()
    assert sorted(Path(name).suffix for name in names) == [".engine", ".flatbuffers", ".profile", ".timing"]


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_each_calibration_method_gives_a_table_of_the_tensors_that_run(run: Run, job: Job, method: str) -> None:
    prepared = ok(run(job("onnxruntime_trt", "int8", sizes=(1,), method=method)))
    table = ort_table.read(artifact(prepared, "ort_table").path)
    assert {"image", "c", "r", "m", "scores"} & set(table)
    assert all(value > 0 for value in table.values())


def test_a_table_whose_names_are_not_those_of_the_graph_is_refused(
    run: Run, job: Job, tensorrt: standin_ort.TensorRT
) -> None:
    tensorrt.renames = True
    message = failed(run(job("onnxruntime_trt", "int8")), "failed", "calibration-not-used")
    assert "0 of 2 convolutions and matrix products" in message


def test_what_tensorrt_says_of_tensors_without_a_range_is_counted(
    run: Run, job: Job, tensorrt: standin_ort.TensorRT
) -> None:
    tensorrt.log = standin_ort.LOG
    spec = job("onnxruntime_trt", "int8", sizes=(1,))
    ok(run(spec))
    assert ok(run(spec, 1)).effective["calibration_table"]["tensors_without_range"] == 1


def test_a_gpu_without_fast_int8_is_refused(run: Run, job: Job, tensorrt: standin_ort.TensorRT) -> None:
    tensorrt.log = "[TensorRT EP] ORT_TENSORRT_INT8_ENABLE is set, but platform doesn't support fast native int8\n"
    assert "fast native int8" in failed(run(job("onnxruntime_trt", "int8")), "failed", "precision-not-held")


def test_an_engine_whose_name_tells_of_other_flags_is_an_error(
    run: Run, job: Job, tensorrt: standin_ort.TensorRT
) -> None:
    tensorrt.drops_flags = True
    spec = job("onnxruntime_trt", "fp16", sizes=(1,))
    ok(run(spec))
    assert "'fp16': True" in failed(run(spec, 1), "failed", "precision-not-held")


def test_an_engine_that_is_built_while_measuring_is_an_error(
    run: Run, job: Job, tensorrt: standin_ort.TensorRT
) -> None:
    spec = job("onnxruntime_trt")
    ok(run(spec))
    tensorrt.rebuilds = True
    assert "b1_sm90.engine" in failed(run(spec, 1), "failed", "not-prepared")


def test_an_archive_that_was_changed_is_never_loaded(run: Run, job: Job) -> None:
    spec = job("onnxruntime_trt", sizes=(1,))
    with open(artifact(ok(run(spec)), "ort_engine").path, "ab") as stream:
        stream.write(b"foreign")
    failed(run(spec, 1), "failed", "not-prepared")


def test_a_model_that_the_provider_splits_gets_its_engines_by_the_first_run(
    run: Run, job: Job, tensorrt: standin_ort.TensorRT
) -> None:
    tensorrt.splits = True
    spec = job("onnxruntime_trt")
    ok(run(spec))
    found = ok(run(spec, 4))
    assert found.effective["explicit_profile"] is False
    assert len(tensorrt.built) == 2


def test_a_batch_that_does_not_fit_ends_the_ladder_and_the_smaller_ones_are_measured(
    run: Run, job: Job, tensorrt: standin_ort.TensorRT
) -> None:
    tensorrt.limit = 4
    spec = job("onnxruntime_trt", sizes=(1, 4, 8, 16))
    ok(run(spec))
    ok(run(spec, 4))
    for batch in (8, 16):
        assert "batch 8" in failed(run(spec, batch), "out_of_memory", "out-of-memory-build")


def test_a_first_batch_that_does_not_fit_fails_in_its_stage(run: Run, job: Job, tensorrt: standin_ort.TensorRT) -> None:
    tensorrt.limit = 0
    found = run(job("onnxruntime_trt"))
    failed(found, "out_of_memory", "out-of-memory-build")
    assert found.failure is not None
    assert found.failure.stage == "build"


def test_options_out_of_range_and_removed_precisions_are_refused(
    run: Run, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed(run(job("onnxruntime_trt", optimization_level=9)), "unsupported", "unknown-option")
    monkeypatch.setattr("workers.workflows.ort_providers.linked_tensorrt", lambda _ort: (11, "11.0.0"))
    for precision in ("int8", "fp16"):
        failed(run(job("onnxruntime_trt", precision)), "unsupported", "strongly-typed-only")
