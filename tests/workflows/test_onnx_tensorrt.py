# SPDX-License-Identifier: Apache-2.0
"""The steps of `onnx_tensorrt` with stand-ins for TensorRT and CUDA: not a word about hardware."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from farm.contract.canonical import sha256_file
from farm.contract.codec import from_json, to_json
from farm.contract.device import DeviceInfo
from farm.contract.job import AccuracySpec, BatchLadder, Calibration, JobSpec, ModelSpec, Rebuild
from farm.contract.layers import LayerTable
from farm.contract.outcome import Failure
from farm.contract.run import RunRequest, RunResult
from tests.island.harness import TINY, model_job
from tests.workflows.onnx_models import save_model

pytest.importorskip("onnxruntime")
from tests.workflows import standin_trt
from workers.workflows import cuda_graph
from workers.workflows.cache import CachedFile
from workers.workflows.errors import WorkflowError
from workers.workflows.trt_calibration import check_format
from workers.workflows.trt_engine import Engines, stale
from workers.workflows.trt_memory import PycudaMemory

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]

GPU = DeviceInfo("box-gpu0", "nvidia-x", "gpu", "box", "X", {"uuid": "GPU-0", "compute_capability": "9.0"})
Run = Callable[..., RunResult]


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = standin_trt.pycuda_driver()
    package = ModuleType("pycuda")
    vars(package).update(driver=driver, __path__=[])
    for name, module in (("tensorrt", standin_trt.tensorrt()), ("pycuda", package), ("pycuda.driver", driver)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(standin_trt.Builder, "limit", 10**9)
    monkeypatch.setattr(standin_trt.Builder, "built", 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "given.onnx")


@pytest.fixture
def job(model: Path) -> Callable[..., JobSpec]:
    def make(
        precision: str = "fp32", sizes: tuple[int, ...] = (1, 4), boundary: str = "compute", **more: Any
    ) -> JobSpec:
        spec = ModelSpec("mine", "onnx", (3, 16, 16), onnx_sha256=sha256_file(str(model)))
        made = model_job(spec, "onnx_tensorrt", precision)
        calibration = Calibration("entropy", 8, 4) if precision == "int8" else None
        protocol = replace(TINY, boundary=boundary)
        return replace(made, batches=BatchLadder(sizes), calibration=calibration, protocol=protocol, options=dict(more))

    return make


@pytest.fixture
def run(tmp_path: Path, model: Path) -> Run:
    """Prepare (no batch) or measure in this process."""
    count = iter(range(100))

    def do(
        spec: JobSpec, batch: int | None = None, device: DeviceInfo = GPU, accuracy: bool = False, mode: str = ""
    ) -> RunResult:
        from workers.runner.stages import run_request

        control = tmp_path / f"run-{next(count)}"
        control.mkdir()
        mode = mode or ("prepare" if batch is None else "accuracy" if accuracy else "measure")
        request = RunRequest("r", mode, spec, device, str(tmp_path / "cache"), batch, str(model))
        (control / "request.json").write_text(json.dumps(to_json(request)))
        run_request(str(control))
        return from_json(RunResult, json.loads((control / "result.json").read_text()))

    return do


def test_layers_are_told_by_the_profiler_with_what_the_inspector_says(
    run: Run, job: Callable[..., JobSpec], tmp_path: Path
) -> None:
    spec = job("fp16", cuda_graph=True)
    ok(run(spec))
    found = ok(run(spec, 4, mode="layers"))
    (kept,) = [each for each in found.artifacts if each.kind == "profile:layers"]
    table = from_json(LayerTable, json.loads((tmp_path / "run-1" / kept.path).read_text()))
    rows = [(row.name, row.origins, row.precision, row.time_ns, row.calls) for row in table.layers]
    assert rows == [("conv + relu", ("conv", "relu"), "fp16", 250e3, 1.0), ("linear", ("linear",), None, 125e3, 1.0)]
    assert (table.source, table.clock) == ("TensorRT IProfiler", "device")
    assert found.effective["layers_profile"]["share_by_place"] == {"tensorrt": pytest.approx(1.0)}
    assert "cuda_graph" not in found.effective


def ok(result: RunResult) -> RunResult:
    assert result.outcome == "ok", result.failure
    return result


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "int8"])
@pytest.mark.parametrize("boundary", ["compute", "end_to_end"])
def test_a_job_goes_from_file_to_samples(run: Run, job: Callable[..., JobSpec], precision: str, boundary: str) -> None:
    spec = job(precision, boundary=boundary)
    prepared = ok(run(spec))
    kinds = [artifact.kind for artifact in prepared.artifacts]
    assert kinds.count("engine") == 2
    assert ("trt_calibration" in kinds) == (precision == "int8")
    for batch in (1, 4):
        found = ok(run(spec, batch))
        assert found.effective["precision"] == precision
        assert found.effective["profile"] == [batch, batch, batch]
        assert found.metrics["build_s"] > 0
        counts = {file.name: file.count for file in found.samples}
        assert ("device" in counts) == (boundary == "compute"), "copies are no part of the device's own time"
        assert counts.get("device") == counts.get("enqueue")
        assert found.metrics["relative_l2_error"] < 1e-6
        assert "engine_inspector" in [artifact.kind for artifact in found.artifacts]
        assert all(artifact.cached for artifact in found.artifacts if artifact.kind == "engine")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_token_ids_stay_int32_on_their_way_to_an_engine(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    pytest.importorskip("torch")
    pinned = record_pinned(monkeypatch)
    spec = replace(job(precision, sizes=(2,)), model=ModelSpec("bert-tiny", "encoder", (8,)))
    prepared = ok(run(spec))
    assert ("trt_calibration" in [artifact.kind for artifact in prepared.artifacts]) == (precision == "int8")
    found = ok(run(spec, 2))
    assert (found.effective["precision"], found.effective["reference"]) == (precision, "pytorch fp32")
    assert found.metrics["relative_l2_error"] < 1e-5
    assert {kind for shape, kind in pinned if shape[1:] == (8,)} == {"int32"}
    assert {kind for shape, kind in pinned if shape[1:] == (8, 128)} == {"float32"}


def record_pinned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], str]]:
    """Shape and type of every page-locked array."""
    found: list[tuple[tuple[int, ...], str]] = []
    pinned = PycudaMemory.pinned

    def recorded(self: PycudaMemory, shape: Any, dtype: str) -> Any:
        found.append((tuple(shape), str(dtype)))
        return pinned(self, shape, dtype)

    monkeypatch.setattr(PycudaMemory, "pinned", recorded)
    return found


def streamed(spec: JobSpec, count: int = 3, **switches: Any) -> JobSpec:
    protocol = replace(spec.protocol, scenario="streams", streams=count, min_iterations=12, max_iterations=12)
    return replace(spec, protocol=replace(protocol, **switches))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(cuda_graph, "DriverGraphs", standin_trt.DriverGraphs)
    monkeypatch.setattr(standin_trt.DriverGraphs, "refuses", "")
    monkeypatch.setattr(standin_trt, "calls", [])
    return standin_trt.calls


@pytest.mark.parametrize("boundary", ["compute", "end_to_end"])
@pytest.mark.parametrize(("generation", "profiles", "shares"), [(8, 3, False), (10, 1, True)])
def test_each_lane_has_a_context_a_stream_and_before_tensorrt_10_a_profile(
    run: Run,
    job: Callable[..., JobSpec],
    monkeypatch: pytest.MonkeyPatch,
    calls: list[Any],
    generation: int,
    profiles: int,
    shares: bool,
    boundary: str,
) -> None:
    use(monkeypatch, generation)
    monkeypatch.setattr(standin_trt, "shares_profiles", shares)
    spec = streamed(job(sizes=(4,)), boundary=boundary)
    ok(run(spec))
    found = ok(run(spec, 4))
    assert (found.effective["profiles"], found.effective["contexts"]) == (profiles, 3)
    assert found.metrics["relative_l2_error"] < 1e-6
    runs = [call[1:] for call in calls if call[0] == "run"]
    assert len({stream for stream, _ in runs}) == len({context for _, context in runs}) == len(set(runs)) == 3
    counts = {file.name: file.count for file in found.samples}
    assert counts["latency"] == sum(found.effective["lane_counts"]) == 12
    assert ("enqueue" in counts) == (boundary == "compute")
    assert ("enqueue_threads" in found.effective) == (boundary == "compute")


@pytest.mark.parametrize("graph", [{}, {"cuda_graph": True}])
@pytest.mark.parametrize("boundary", ["compute", "end_to_end"])
def test_more_contexts_than_streams_take_them_in_turn(
    run: Run, job: Callable[..., JobSpec], calls: list[Any], boundary: str, graph: dict[str, Any]
) -> None:
    spec = streamed(job(sizes=(4,), boundary=boundary, **graph), 2, contexts=5, inputs="warm")
    ok(run(spec))
    calls.clear()
    found = ok(run(spec, 4))
    effective = found.effective
    assert (effective["contexts"], effective["streams"], effective["in_flight"]) == (5, 2, 5)
    assert (effective["profiles"], len(effective["lane_counts"])) == (5, 5), "TensorRT 8: a profile for each"
    assert found.metrics["context_memory_bytes"] == 2**20
    assert found.metrics["relative_l2_error"] < 1e-6
    runs = {call[1:] for call in calls if call[0] == "run"}
    streams = sorted({stream for stream, _ in runs})
    assert len(streams) == 2
    assert {(streams.index(stream), context) for stream, context in runs} in (
        {(context % 2, context) for context in range(5)},
        {((context + 1) % 2, context) for context in range(5)},
    )


def test_a_request_on_a_shared_stream_is_waited_for_by_itself(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait for the whole stream would hold the requests of the others that came behind."""
    waited: list[str] = []
    driver = sys.modules["pycuda.driver"]
    event, stream = driver.Event.synchronize, driver.Stream

    def noted(_flags: int = 0) -> Any:
        made = stream(_flags)
        made.synchronize = lambda: waited.append("stream")
        return made

    monkeypatch.setattr(driver, "Stream", noted)
    monkeypatch.setattr(driver.Event, "synchronize", lambda self: (waited.append("mark"), event(self)))
    shared = streamed(job(sizes=(4,)), 1, contexts=3, inputs="warm")
    ok(run(shared))
    waited.clear()
    ok(run(shared, 4))
    assert waited.count("stream") == 3, "once for each lane, when its input was placed"
    assert waited.count("mark") >= 3 + 12, "each first request, and each timed one"
    own = streamed(job(sizes=(4,)), 3, contexts=3, inputs="warm")
    ok(run(own))
    waited.clear()
    ok(run(own, 4))
    assert "mark" not in waited


def test_fewer_contexts_than_streams_are_refused(run: Run, job: Callable[..., JobSpec]) -> None:
    found = run(streamed(job(sizes=(4,)), 4, contexts=2))
    assert found.failure is not None
    assert (found.outcome, found.failure.reference) == ("unsupported", "concurrency-unsupported")
    assert "one request at a time" in found.failure.message


def test_the_accuracy_is_taken_one_at_a_time_with_the_engine_of_the_lanes(
    run: Run, job: Callable[..., JobSpec], calls: list[Any]
) -> None:
    spec = replace(streamed(job(sizes=(4,))), data="digits", accuracy=AccuracySpec("digits", limit=40))
    ok(run(spec))
    built = standin_trt.Builder.built
    found = ok(run(spec, 4, accuracy=True))
    assert found.metrics["accuracy_samples"] == 40
    assert (standin_trt.Builder.built, found.effective["profiles"]) == (built, 3)


def test_an_engine_for_several_lanes_is_another_one_only_where_it_must_be(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(sizes=(4,))
    ok(run(spec))
    for generation, built in ((8, 2), (10, 3)):
        use(monkeypatch, generation)
        monkeypatch.setattr(standin_trt, "shares_profiles", generation == 10)
        ok(run(streamed(spec)))
        ok(run(spec))
        assert standin_trt.Builder.built == built
    monkeypatch.setattr(standin_trt, "shares_profiles", False)
    use(monkeypatch, 8)
    assert ok(run(spec, 4)).effective["profiles"] == 1


def test_a_cuda_graph_is_captured_for_each_input_after_a_run_and_nothing_else_is_launched(
    run: Run, job: Callable[..., JobSpec], calls: list[Any]
) -> None:
    spec = job(sizes=(4,), cuda_graph=True)
    ok(run(spec))
    calls.clear()
    found = ok(run(spec, 4))
    inputs = found.effective["input_count"]
    assert found.effective["cuda_graph"] == {
        "asked": True,
        "captured": True,
        "why": "instantiated by the CUDA driver and launched by each inference",
        "graphs": inputs,
        "inputs": cuda_graph.EACH_INPUT,
        "nodes": [3],
    }
    kinds = [call[0] for call in calls]
    assert kinds[: 2 * inputs] == ["run", "capture"] * inputs
    launched = kinds[2 * inputs :]
    assert launched[::2] == ["launch"] * (len(launched) // 2)
    assert found.metrics["relative_l2_error"] < 1e-6
    assert found.metrics["mismatch_1e-4_pct"] == 0


def test_with_copies_there_is_one_graph_for_the_one_memory(
    run: Run, job: Callable[..., JobSpec], calls: list[Any]
) -> None:
    spec = job(sizes=(4,), boundary="end_to_end", cuda_graph=True)
    ok(run(spec))
    calls.clear()
    held = ok(run(spec, 4)).effective["cuda_graph"]
    assert (held["graphs"], held["inputs"]) == (1, cuda_graph.ONE_MEMORY)
    assert [call[0] for call in calls].count("capture") == 1


def test_each_lane_captures_graphs_on_its_own_stream(run: Run, job: Callable[..., JobSpec], calls: list[Any]) -> None:
    spec = streamed(job(sizes=(4,), cuda_graph=True), 2, inputs="warm")
    ok(run(spec))
    calls.clear()
    held = ok(run(spec, 4)).effective["cuda_graph"]
    assert held["graphs"] == 2
    captured = [call[1] for call in calls if call[0] == "capture"]
    assert len(set(captured)) == 2
    assert {call[1] for call in calls if call[0] == "launch"} == set(captured)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_graph_that_cannot_be_captured_is_an_answer_and_nothing_is_measured_without_it(
    run: Run, job: Callable[..., JobSpec], calls: list[Any], monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    spec = job(sizes=(4,), cuda_graph=True)
    spec = streamed(spec, 2) if lanes == 2 else spec
    ok(run(spec))
    monkeypatch.setattr(standin_trt.DriverGraphs, "refuses", "error 901")
    found = run(spec, 4)
    assert found.failure is not None
    assert (found.outcome, found.failure.reference) == ("unsupported", "cuda-graph-not-captured")
    assert found.failure.stage == "load_engine"
    assert found.samples == []


def use(monkeypatch: pytest.MonkeyPatch, generation: int) -> None:
    """Put the stand-in of a generation of TensorRT in place."""
    monkeypatch.setitem(sys.modules, "tensorrt", standin_trt.tensorrt(generation))


@pytest.mark.parametrize(
    ("generation", "options", "typing"),
    [
        (8, {"quantization": "explicit"}, "weak"),
        (10, {"quantization": "explicit", "allow_fp16": True}, "weak"),
        (10, {"quantization": "explicit", "typing": "strong"}, "strong"),
        (11, {"quantization": "explicit"}, "strong"),
    ],
)
def test_int8_comes_from_a_graph_with_qdq_nodes_where_it_is_asked_for(
    run: Run,
    job: Callable[..., JobSpec],
    monkeypatch: pytest.MonkeyPatch,
    generation: int,
    options: dict[str, Any],
    typing: str,
) -> None:
    use(monkeypatch, generation)
    spec = job("int8", **options)
    prepared = ok(run(spec))
    kinds = [artifact.kind for artifact in prepared.artifacts]
    assert ("onnx_int8" in kinds, "trt_calibration" in kinds) == (True, False)
    assert [stage.name for stage in prepared.stages if stage.name in ("export", "calibrate", "build")] == [
        "export",
        "calibrate",
        "build",
    ]
    for batch in (1, 4):
        held = ok(run(spec, batch)).effective
        assert (held["precision"], held["quantization"], held["typing"]) == ("int8", "explicit", typing)
        assert held["activation_type"] == "qint8"
        assert held["quantized_nodes"]["share"] == 1.0
        assert held["calibration"]["method"] == "entropy"


@pytest.mark.parametrize(("generation", "options"), [(10, {"typing": "strong"}), (11, {}), (11, {"typing": "strong"})])
def test_fp16_of_a_strongly_typed_network_comes_from_a_converted_graph(
    run: Run,
    job: Callable[..., JobSpec],
    monkeypatch: pytest.MonkeyPatch,
    generation: int,
    options: dict[str, Any],
) -> None:
    use(monkeypatch, generation)
    spec = job("fp16", **options)
    assert "onnx_fp16" in [artifact.kind for artifact in ok(run(spec)).artifacts]
    found = ok(run(spec, 4))
    assert (found.effective["precision"], found.effective["typing"]) == ("fp16", "strong")
    assert found.effective["builder_flags"]["fp16"] in (False, None)
    assert found.metrics["relative_l2_error"] < 0.01


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize(("generation", "typing"), [(10, "strong"), (11, "weak")])
def test_other_precisions_run_strongly_typed_too(
    run: Run,
    job: Callable[..., JobSpec],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    generation: int,
    typing: str,
) -> None:
    use(monkeypatch, generation)
    spec = job(precision, typing=typing)
    ok(run(spec))
    assert ok(run(spec, 1)).effective["typing"] == "strong"


@pytest.mark.parametrize(
    ("generation", "precision", "options", "reference", "words"),
    [
        (11, "int8", {}, "strongly-typed-only", "quantization: explicit"),
        (10, "int8", {"typing": "strong"}, "strongly-typed-only", "quantization: explicit"),
        (8, "fp16", {"typing": "strong"}, "tensorrt-too-old", "TensorRT 10"),
        (11, "fp16", {"allow_fp16": True}, "strongly-typed-only", "allow_fp16"),
    ],
)
def test_what_a_generation_cannot_do_is_refused_with_the_way_out(
    run: Run,
    job: Callable[..., JobSpec],
    monkeypatch: pytest.MonkeyPatch,
    generation: int,
    precision: str,
    options: dict[str, Any],
    reference: str,
    words: str,
) -> None:
    use(monkeypatch, generation)
    found = run(job(precision, **options))
    assert (found.outcome, failure(found).reference) == ("unsupported", reference)
    assert words in (failure(found).hint or "")
    assert standin_trt.Builder.built == 0


@pytest.mark.parametrize(("generation", "quantization"), [(8, "implicit"), (8, "explicit"), (11, "implicit")])
def test_a_given_graph_with_qdq_nodes_runs_as_it_is(
    run: Run,
    job: Callable[..., JobSpec],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    generation: int,
    quantization: str,
) -> None:
    use(monkeypatch, generation)
    save_model(model, quantized=True)
    spec = job("int8", sizes=(1,), quantization=quantization)
    spec = replace(spec, model=replace(spec.model, onnx_sha256=sha256_file(str(model))))
    kinds = {artifact.kind for artifact in ok(run(spec)).artifacts}
    assert not kinds & {"onnx_int8", "trt_calibration"}
    held = ok(run(spec, 1)).effective
    assert (held["precision"], held["quantization"]) == ("int8", "explicit")
    refused = run(replace(spec, precision="fp32", options={}, calibration=None))
    assert (refused.outcome, failure(refused).reference) == ("unsupported", "not-an-fp32-model")


def test_percentile_ranges_are_for_the_explicit_graph_alone(run: Run, job: Callable[..., JobSpec]) -> None:
    percentile = Calibration("percentile", 8, 4)
    refused = run(replace(job("int8"), calibration=percentile))
    assert (refused.outcome, failure(refused).reference) == ("unsupported", "calibration-unsupported")
    assert "quantization: explicit" in (failure(refused).hint or "")
    spec = replace(job("int8", sizes=(1,), quantization="explicit"), calibration=percentile)
    ok(run(spec))
    assert ok(run(spec, 1)).effective["calibration"]["method"] == "percentile"


def test_typing_is_part_of_the_engines_key(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, 10)
    for options in ({}, {"typing": "strong"}):
        built = standin_trt.Builder.built
        ok(run(job("fp32", sizes=(1,), **options)))
        assert standin_trt.Builder.built == built + 1


def test_preparing_again_builds_nothing(run: Run, job: Callable[..., JobSpec]) -> None:
    ok(run(job("int8")))
    built = standin_trt.Builder.built
    assert built == 3
    ok(run(job("int8")))
    assert standin_trt.Builder.built == built


def engine_of(result: RunResult) -> str:
    return str(result.effective["engine_sha256"])


@pytest.mark.parametrize("timing_cache", ["cold", "shared"])
def test_every_rebuild_is_really_built_and_says_what_it_is(
    run: Run, job: Callable[..., JobSpec], tmp_path: Path, timing_cache: str
) -> None:
    ok(run(job()))
    timing = next((tmp_path / "cache/timing").glob("*.cache"))
    known, built = timing.read_bytes(), standin_trt.Builder.built
    found = []
    for index in range(3):
        spec = replace(job(sizes=(1,)), job_id=f"j{index}", rebuild=Rebuild(index, 3, timing_cache))
        ok(run(spec))
        ok(run(spec))
        found.append(ok(run(spec, 1)))
        assert found[-1].effective["rebuild"] == {"index": index, "count": 3, "timing_cache": timing_cache}
        assert (found[-1].effective["timing_cache_bytes_before"] == 0) == (timing_cache == "cold")
    assert standin_trt.Builder.built == built + 3
    assert (timing.read_bytes() == known) == (timing_cache == "cold")
    assert len({engine_of(result) for result in found}) == 3
    assert len({result.effective["tactics_sha256"] for result in found}) == 1
    assert len({result.effective["outputs_sha256"] for result in found}) == 1
    assert all(result.effective["engine_build_s"] > 0 for result in found)


def test_another_sweep_or_a_retry_builds_its_own(run: Run, job: Callable[..., JobSpec]) -> None:
    spec = replace(job(sizes=(1,)), rebuild=Rebuild(0, 1, "cold"))
    ok(run(spec))
    for other in (replace(spec, job_id="another"), replace(spec, generation=1)):
        built = standin_trt.Builder.built
        ok(run(other))
        assert standin_trt.Builder.built == built + 1


def test_rebuilds_share_the_calibration(run: Run, job: Callable[..., JobSpec]) -> None:
    for index in range(2):
        made = ok(run(replace(job("int8", sizes=(1,)), job_id=f"j{index}", rebuild=Rebuild(index, 2))))
        table = next(a for a in made.artifacts if a.kind == "trt_calibration")
        assert table.cached == (index == 1)


def test_one_engine_serves_a_ladder(run: Run, job: Callable[..., JobSpec]) -> None:
    spec = job(profile="ladder")
    ok(run(spec))
    assert standin_trt.Builder.built == 1
    assert ok(run(spec, 1)).effective["profile"] == [1, 4, 4]


def test_a_batch_that_does_not_fit_ends_the_ladder_and_the_smaller_ones_are_measured(
    run: Run, job: Callable[..., JobSpec]
) -> None:
    standin_trt.Builder.limit = 4
    spec = job(sizes=(1, 4, 8))
    ok(run(spec))
    ok(run(spec, 1))
    for batch in (4, 8):
        found = run(spec, batch)
        assert (found.outcome, found.failure and found.failure.reference) == ("out_of_memory", "out-of-memory-build")
        assert "batch 4" in (found.failure.message if found.failure else "")


def test_a_first_batch_that_does_not_fit_fails_in_its_stage(run: Run, job: Callable[..., JobSpec]) -> None:
    standin_trt.Builder.limit = 1
    found = run(job())
    assert found.outcome == "out_of_memory"
    assert found.failure is not None
    assert (found.failure.stage, found.failure.reference) == ("build", "out-of-memory-build")


def failure(result: RunResult) -> Failure:
    assert result.failure is not None, result
    return result.failure


def forge(path: Path, content: bytes) -> None:
    """Replace a file of the cache and make its manifest agree."""
    path.write_bytes(content)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    told = {"sha256": sha256_file(str(path)), "size_bytes": len(content)}
    (path.parent / "manifest.json").write_text(json.dumps(manifest | told))


@pytest.mark.parametrize("how", ["append", "flip", "swap", "forge-open", "remove"])
def test_an_engine_that_was_not_recorded_is_never_deserialised(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    spec = job()
    made = [Path(a.path) for a in ok(run(spec)).artifacts if a.kind == "engine"]
    content = made[0].read_bytes()
    if how == "append":
        made[0].write_bytes(content + b"foreign")
    elif how == "flip":
        made[0].write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif how == "swap":
        made[0].write_bytes(made[1].read_bytes())
    elif how == "remove":
        made[0].unlink()
    else:
        made[0].parent.chmod(0o777)
        forge(made[0], b"foreign")
    loaded: list[bytes] = []
    monkeypatch.setattr(standin_trt, "load", loaded.append)
    found = run(spec, 1)
    assert (found.outcome, failure(found).reference) == ("failed", "not-prepared")
    assert loaded == []


def test_an_engine_that_changes_between_the_look_up_and_the_load_is_not_deserialised(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, original = job(), Engines.engine
    ok(run(spec))

    def engine(self: Engines, batch: int) -> CachedFile:
        entry = original(self, batch)
        Path(entry.path).write_bytes(b"changed")
        return entry

    monkeypatch.setattr(Engines, "engine", engine)
    found = run(spec, 1)
    assert (found.outcome, failure(found).reference) == ("failed", "engine-not-recorded")


@pytest.mark.parametrize(
    "words",
    [
        "6: The engine plan file is generated on an incompatible device, expecting compute 9.0 got compute 8.0",
        "6: The engine plan file is not compatible with this version of TensorRT, expecting library version 8.6.0.12",
        "1: [stdArchiveReader.cpp::StdArchiveReader::31] Error Code 1: Serialization (Magic tag does not match)",
    ],
)
def test_an_engine_of_another_gpu_or_version_is_told_as_such(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(standin_trt, "refusal", words)
    spec = job()
    ok(run(spec))
    found = run(spec, 1)
    assert (found.outcome, failure(found).reference) == ("failed", "engine-foreign")
    assert failure(found).stage == "load_engine"
    assert words in failure(found).message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: replace(d, facts=d.facts | {"driver_version": "580.1"}), "driver_version: needed 580.1"),
        (
            lambda d: replace(d, facts=d.facts | {"compute_capability": "8.0"}),
            "compute_capability: needed 8.0, there 9.0",
        ),
        (lambda d: replace(d, device_class="nvidia-y"), "device_class: needed nvidia-y, there nvidia-x"),
    ],
)
def test_an_engine_of_another_platform_is_not_used_and_the_field_is_named(
    run: Run, job: Callable[..., JobSpec], change: Callable[[DeviceInfo], DeviceInfo], field: str
) -> None:
    spec = job(sizes=(1,))
    first = ok(run(spec)) and ok(run(spec, 1))
    assert first.effective["engine_instead_of"] is None
    other = change(GPU)
    missed = run(spec, 1, device=other)
    assert (missed.outcome, failure(missed).reference) == ("failed", "not-prepared")
    assert field in failure(missed).message
    built = standin_trt.Builder.built
    ok(run(spec, device=other))
    assert standin_trt.Builder.built == built + 1
    assert field in ok(run(spec, 1, device=other)).effective["engine_instead_of"]


def test_an_engine_of_another_tensorrt_is_not_used_and_the_versions_are_named(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(sizes=(1,))
    ok(run(given))
    monkeypatch.setattr("workers.workflows.base.versions", lambda *_names: {"tensorrt": "tensorrt 10.16.1"})
    missed = run(given, 1)
    assert "versions.tensorrt: needed tensorrt 10.16.1, there 8.6.0" in failure(missed).message
    ok(run(given))
    assert "10.16.1" in ok(run(given, 1)).effective["engine_instead_of"]


def test_the_engine_for_other_options_or_another_model_is_not_called_stale() -> None:
    key = {"onnx": "a", "options": {"level": 3}, "versions": {"tensorrt": "8"}, "driver_version": "1"}
    assert stale(key, [key | {"onnx": "b"}, key | {"options": {"level": 4}}]) is None
    assert stale(key, [key | {"onnx": "b"}, key | {"driver_version": "2"}]) == [("driver_version", "1", "2")]


def test_without_onnxruntime_there_is_no_reference_and_the_record_says_why(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.workflows.trt_source.importlib.util.find_spec", lambda _name: None)
    spec = job()
    ok(run(spec))
    found = ok(run(spec, 1))
    assert found.mismatch == []
    assert found.effective["reference"] is None
    assert "no onnxruntime" in found.effective["reference_reason"]


def with_file(spec: JobSpec, path: Path) -> JobSpec:
    """The job with the file's digest of now."""
    return replace(spec, model=replace(spec.model, onnx_sha256=sha256_file(str(path))))


def test_an_operator_that_the_parser_lacks_is_unsupported_and_each_such_node_is_told(
    run: Run, job: Callable[..., JobSpec], model: Path
) -> None:
    import onnx

    broken = onnx.load(str(save_model(model, determinant=True)))
    more = onnx.helper.make_node("Det", ["unit"], ["another"], name="second")
    broken.graph.node.insert(len(broken.graph.node) - 1, more)
    onnx.save(broken, str(model))
    found = run(with_file(job(), model))
    assert (found.outcome, failure(found).reference) == ("unsupported", "parser-failed")
    assert failure(found).stage == "export"
    assert "2 errors" in failure(found).message
    detail = failure(found).detail or ""
    assert "no importer registered for op: Det" in detail
    assert "'second' (Det)" in detail


def test_a_file_that_is_no_onnx_is_a_failure_of_the_parser(run: Run, job: Callable[..., JobSpec], model: Path) -> None:
    model.write_bytes(b"\xff" * 100)
    found = run(with_file(job(), model))
    assert (found.outcome, failure(found).reference) == ("failed", "parser-failed")
    assert "MODEL_DESERIALIZE_FAILED" in failure(found).message


def test_a_file_of_another_input_shape_is_refused_before_anything_is_built(
    run: Run, job: Callable[..., JobSpec], model: Path
) -> None:
    save_model(model, channels=4)
    found = run(with_file(job(), model))
    assert (found.outcome, failure(found).reference) == ("failed", "input-shape-mismatch")
    assert standin_trt.Builder.built == 0


def test_a_fixed_batch_is_built_once_and_the_other_sizes_are_refused(
    run: Run, job: Callable[..., JobSpec], model: Path
) -> None:
    save_model(model, batch=4)
    spec = with_file(job(), model)
    ok(run(spec))
    assert standin_trt.Builder.built == 1
    ok(run(spec, 4))
    found = run(spec, 1)
    assert (found.outcome, failure(found).reference) == ("unsupported", "fixed-batch")


@pytest.mark.parametrize(
    ("missing", "words"),
    [(["tensorrt"], "no tensorrt"), (["pycuda", "pycuda.driver"], "neither pycuda nor cuda-python")],
)
def test_a_stack_without_the_libraries_says_which(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch, missing: list[str], words: str
) -> None:
    spec = job()
    ok(run(spec))
    for name in (*missing, "cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    for found in (run(replace(spec, batches=BatchLadder((8,)))), run(spec, 1)):
        assert (found.outcome, failure(found).reference) == ("unsupported", "missing-library")
        assert words in failure(found).message


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"", "no header"),
        (b"image: 3c010a14\n", "no header"),
        (b"TRT-8600-EntropyCalibration2\n", "no tensor"),
        (b"TRT-8501-EntropyCalibration2\nimage: 3c010a14\n", "of TensorRT 8501, and this is 8.6.0"),
        (b"TRT-8600-EntropyCalibration2\nimage: 3c010a14\nconv1_out", "line 3"),
        (b"TRT-8600-EntropyCalibration2\nimage: nan\n", "line 2"),
        (b"TRT-8600-EntropyCalibration2\nimage: 3c010a1400\n", "line 2"),
    ],
)
def test_a_damaged_calibration_table_is_refused_even_if_its_manifest_agrees(
    run: Run, job: Callable[..., JobSpec], table: bytes, words: str
) -> None:
    made = ok(run(job("int8", sizes=(1,))))
    path = next(Path(a.path) for a in made.artifacts if a.kind == "trt_calibration")
    forge(path, table)
    found = run(job("int8", sizes=(4,)))
    assert (found.outcome, failure(found).reference) == ("failed", "calibration-table-damaged")
    assert failure(found).stage == "build"
    assert words in failure(found).message


def test_a_calibration_table_with_other_bytes_than_recorded_is_made_again(
    run: Run, job: Callable[..., JobSpec]
) -> None:
    made = ok(run(job("int8", sizes=(1,))))
    path = next(Path(a.path) for a in made.artifacts if a.kind == "trt_calibration")
    path.write_bytes(path.read_bytes()[:-9])
    again = ok(run(job("int8", sizes=(1, 4))))
    assert not next(a for a in again.artifacts if a.kind == "trt_calibration").cached
    assert path.read_bytes() == standin_trt.TABLE


def test_a_table_that_tensorrt_ignores_is_refused(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    ok(run(job("int8", sizes=(1,))))
    monkeypatch.setattr(standin_trt, "ignores_tables", True)
    found = run(job("int8", sizes=(4,)))
    assert (found.outcome, failure(found).reference) == ("failed", "calibration-failed")


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("8.6.0", 8600), ("8.5.3.1", 8503), ("8.6.1.post1", 8601), ("10.0.1", 100001), ("10.16.1.11", 101601)],
)
def test_the_header_of_a_table_is_of_the_version(version: str, numbers: int) -> None:
    check_format(f"TRT-{numbers}-EntropyCalibration2\nx: 3c010a14\n".encode(), version)
    with pytest.raises(WorkflowError, match="of TensorRT 7103"):
        check_format(b"TRT-7103-EntropyCalibration2\nx: 3c010a14\n", version)


def test_outputs_that_are_not_finite_are_a_failure_that_keeps_its_metrics(
    run: Run, job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job()
    ok(run(spec))
    monkeypatch.setattr(standin_trt, "poison", True)
    found = run(spec, 1)
    assert (found.outcome, failure(found).reference) == ("failed", "nonfinite-outputs")
    assert failure(found).stage == "outputs"
    assert "1 values of 'scores'" in failure(found).message
    assert failure(found).hint
    assert found.metrics["throughput_per_s"] > 0
    assert found.mismatch[0].nonfinite_count == 1
    assert {"latency", "warm_up"} <= {file.name for file in found.samples}
    monkeypatch.setattr(standin_trt, "poison", False)
    ok(run(spec, 1))


def test_a_reference_that_is_not_finite_is_told_as_such(run: Run, job: Callable[..., JobSpec], model: Path) -> None:
    import onnx
    from onnx import numpy_helper

    broken = onnx.load(str(model))
    weights = numpy_helper.to_array(broken.graph.initializer[0]).copy()
    weights[0] = float("nan")
    broken.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, broken.graph.initializer[0].name))
    onnx.save(broken, str(model))
    spec = job(sizes=(1,))
    ok(run(spec))
    found = run(spec, 1)
    assert (found.outcome, failure(found).reference) == ("failed", "nonfinite-reference")


def test_an_option_out_of_range_is_refused(run: Run, job: Callable[..., JobSpec]) -> None:
    found = run(job(optimization_level=9))
    assert (found.outcome, found.failure and found.failure.reference) == ("unsupported", "unknown-option")
