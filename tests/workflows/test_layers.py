# SPDX-License-Identifier: Apache-2.0
"""Layer tables: of real libraries on this CPU; of what TensorRT and GPUs tell, from texts of their shapes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from farm.contract.codec import from_json
from farm.contract.job import JobSpec
from farm.contract.layers import BETWEEN, TENSORRT, LayerTable
from farm.contract.run import RunResult
from tests.island.harness import Island, artifact, model_job
from workers.workflows.errors import WorkflowError
from workers.workflows.layers import LayerProfiler, Observed, kernel_type, midmean, table, trt_origins
from workers.workflows.openvino_layers import later_mean, origins_of
from workers.workflows.ort_layers import Node, origins, rows_of
from workers.workflows.ort_trt_layers import around
from workers.workflows.torch_layers import TorchLayers, is_operator
from workers.workflows.trt_layers import compute_type, known_layers, row

CONV1 = "/conv1/Conv"
RELU1 = "/relu/Relu"


def take_apart(island: Island, job: JobSpec) -> tuple[RunResult, LayerTable]:
    island.prepare(job)
    done = island.run(job, 1, mode="layers")
    result = done.ok()
    kept = artifact(result, "profile:layers")
    return result, from_json(LayerTable, json.loads((done.control / kept.path).read_text()))


@pytest.mark.alone
@pytest.mark.models
@pytest.mark.parametrize("workflow", ["pytorch", "onnxruntime_cpu", "openvino"])
def test_a_real_model_is_taken_apart_by_the_names_of_its_parts(shared: Island, workflow: str) -> None:
    if workflow == "openvino":
        pytest.importorskip("openvino")
    result, found = take_apart(shared, model_job("resnet18", workflow))
    assert found.iterations >= 10
    assert sum(layer.share for layer in found.layers) == pytest.approx(1.0)
    # Of each inference: the sum of the rows' own means is no bound where others use the processor, too. OpenVINO tells
    # no more than means.
    assert 0 < found.whole_ns < (3 if workflow == "openvino" else 1.05) * found.wall_ns
    named = {origin for layer in found.layers for origin in layer.origins}
    assert ("conv1" if workflow == "pytorch" else CONV1) in named
    computing = [layer for layer in found.layers if layer.kind.lower().startswith("conv")]
    assert len(computing) == 20
    assert {layer.precision for layer in computing} == {"fp32"}
    assert result.effective["layers_profile"]["rows"] == len(found.layers)
    assert not any(name.startswith("latency") for name in result.metrics)
    assert result.samples == []
    if workflow == "onnxruntime_cpu":
        assert next(layer for layer in found.layers if CONV1 in layer.origins).origins == (CONV1, RELU1)


@pytest.mark.models
def test_int8_rows_say_int8(shared: Island) -> None:
    _, found = take_apart(shared, model_job("resnet18", "onnxruntime_cpu", "int8"))
    products = [layer for layer in found.layers if layer.kind == "QLinearConv"]
    assert len(products) == 20
    assert {layer.precision for layer in products} == {"int8"}
    convolutions = [[name for name in layer.origins if name.endswith("/Conv")] for layer in products]
    assert [len(names) for names in convolutions] == [1] * 20, "of each, the one node that it computes"
    assert len({name for (name,) in convolutions}) == 20


def test_a_row_is_its_median_and_where_the_clock_is_coarse_its_midmean() -> None:
    profiler = LayerProfiler()
    rows = [Observed("a", "k", "cpu", calls=4, times_ns=[1.0, 2.0, 3.0, 100.0])]
    assert table(profiler, rows, [5, 6, 7, 8]).layers[0].time_ns == 2.5
    assert table(profiler, rows, [5, 6, 7, 8]).wall_ns == 6.5
    profiler.coarse = True
    assert midmean([1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 90.0]) == 2.75
    assert table(profiler, rows, [5, 6, 7, 8]).statistic == "midmean"
    assert table(profiler, rows, [5, 6, 7, 8]).layers[0].calls == 1.0


def test_a_profiler_that_told_nothing_is_a_failure() -> None:
    with pytest.raises(WorkflowError, match="told no layer"):
        table(LayerProfiler(), [], [1])


# TensorRT: the texts are of the shapes that 8.6 and 10 write (docs/profiling.md); nothing here ran on a GPU.


@pytest.mark.parametrize(
    ("name", "metadata", "expected"),
    [
        ("/conv1/Conv + /relu/Relu", "", (CONV1, RELU1)),
        ("/conv1/Conv + /relu/Relu", "[ONNX Layer: /conv1/Conv]\x1e[ONNX Layer: /relu/Relu]", (CONV1, RELU1)),
        ("/conv1/Conv + /relu/Relu", "[ONNX Layer: /conv1/Conv]\x1f[ONNX Layer: /relu/Relu]", (CONV1, RELU1)),
        ("PWN(/act/Sigmoid, /act/Mul)", "", ("/act/Sigmoid", "/act/Mul")),
        ("PWN(PWN(/act/Sigmoid), /act/Mul)", "", ("/act/Sigmoid", "/act/Mul")),
        ("{ForeignNode[/a/Mul.../b/Add]}", "", ("/a/Mul", "/b/Add")),
        ("Reformatting CopyNode for Input Tensor 0 to /conv1/Conv + /relu/Relu", "", ()),
        ("(Unnamed Layer* 3) [Shuffle] + /fc/Gemm", "", ("/fc/Gemm",)),
        ("/a/Conv || /b/Conv", "", ("/a/Conv", "/b/Conv")),
    ],
)
def test_the_nodes_of_a_tensorrt_layer(name: str, metadata: str, expected: tuple[str, ...]) -> None:
    assert trt_origins(name, metadata) == expected


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"Weights": {"Type": "Half", "Count": 9}, "Inputs": [{"Format/Datatype": "Row major linear FP32"}]}, "fp16"),
        ({"Weights": {"Type": "Float", "Count": 0}, "Inputs": [{"Format/Datatype": "Four wide INT8"}]}, "int8"),
        ({"Weights": {"Type": "Float", "Count": 9}, "TacticName": "sm80_xmma_fprop_tf32f32"}, "tf32"),
        ({"Outputs": [{"Format/Datatype": "Row major linear FP32"}]}, "fp32"),
        ({}, None),
    ],
)
def test_the_type_that_a_tensorrt_layer_computes_in(layer: dict[str, Any], expected: str | None) -> None:
    assert compute_type(layer) == expected


def test_an_inspectors_text_as_tensorrt_8_6_wrote_it_on_an_h200() -> None:
    text = (Path(__file__).parents[1] / "fixtures/trt-8.6-inspector.json").read_text()
    rows = [row(name, layer) for name, layer in known_layers(text).items()]
    told = [(found.kind, found.origins, found.precision) for found in rows]
    assert told == [
        ("Reformat", (), "fp32"),
        ("Convolution", (CONV1, RELU1), "fp16"),
        ("Pooling", ("/maxpool/MaxPool",), "fp16"),
        ("Convolution", ("/fc/Gemm",), "fp32"),
        ("NoOp", ("/fc/Gemm",), "fp32"),
    ]
    assert (rows[1].tactic or "").startswith("sm80_xmma_fprop_implicit_gemm_indexed_wo_smem_f16f16")


def test_a_layer_that_is_none_of_the_models_has_no_nodes() -> None:
    assert row("features.10.expand1x1.bias", {"LayerType": "Constant", "Metadata": ""}).origins == ()


def test_what_the_inspector_tells_of_a_layer() -> None:
    told = {"Name": "/conv1/Conv + /relu/Relu", "LayerType": "CaskConvolution", "TacticName": "sm80_xmma_fprop"}
    known = known_layers(json.dumps({"Layers": [told, "a bare name"]}))
    found = row(told["Name"], known[told["Name"]])
    assert (found.kind, found.place, found.tactic) == ("CaskConvolution", TENSORRT, "sm80_xmma_fprop")
    assert row("/other/Relu", None).kind == ""
    assert known_layers("not JSON") == {}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize64x64", "fp16"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32", "int8"),
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32", "tf32"),
        ("volta_sgemm_128x64_nn", "fp32"),
        ("some_kernel", None),
    ],
)
def test_what_a_kernels_name_tells(name: str, expected: str | None) -> None:
    assert kernel_type(name) == expected


def test_what_is_around_the_engine_of_the_provider_is_never_negative() -> None:
    node = Observed("TRT", "TRTKernel", TENSORRT, calls=2, times_ns=[10.0, 4.0])
    layers = [Observed("a", "k", TENSORRT, times_ns=[3.0, 3.0]), Observed("b", "k", TENSORRT, times_ns=[3.0, 3.0])]
    assert around(node, layers).times_ns == [4.0, 0.0]


# ONNX Runtime: the names of fused nodes.


def graph(*steps: tuple[str, str, str]) -> list[Node]:
    """Nodes from (name, inputs, operator); each makes NAME_output_0."""
    return [(name, [f"{i}_output_0" for i in inputs.split()], [f"{name}_output_0"], op) for name, inputs, op in steps]


BLOCK = graph(
    ("/c1/Conv", "in", "Conv"), ("/r/Relu", "/c1/Conv", "Relu"), ("/c2/Conv", "/r/Relu", "Conv"),
    ("/d/Conv", "in", "Conv"), ("/Add", "/c2/Conv /d/Conv", "Add"), ("/r_1/Relu", "/Add", "Relu"),
)  # fmt: skip


def test_a_fused_row_has_what_comes_before_its_name_and_behind_it() -> None:
    rows = ["/r/Relu_output_0_nchwc", "/d/Conv_output_0_nchwc", "/c2/Conv_output_0_nchwc"]
    assert origins(rows, BLOCK) == {
        rows[0]: ("/c1/Conv", "/r/Relu"),
        rows[1]: ("/d/Conv",),
        rows[2]: ("/c2/Conv", "/Add", "/r_1/Relu"),
    }


def test_rows_named_after_their_first_node_take_what_follows() -> None:
    rows = ["/c1/Conv", "/d/Conv", "/c2/Conv", "ReorderOutput"]
    found = origins(rows, BLOCK)
    assert found["/c1/Conv"] == ("/c1/Conv", "/r/Relu")
    assert found["/c2/Conv"] == ("/c2/Conv", "/Add", "/r_1/Relu")
    assert "ReorderOutput" not in found


def test_without_the_model_a_row_has_the_node_in_its_name() -> None:
    assert origins(["/r/Relu_output_0_nchwc"], []) == {"/r/Relu_output_0_nchwc": ("/r/Relu",)}


def test_only_the_last_runs_of_a_profile_count_and_types_and_providers_are_told() -> None:
    def node(ts: int, dur: int, provider: str, kind: str) -> dict[str, Any]:
        args = {"op_name": "Conv", "provider": provider, "input_type_shape": [{kind: [1]}, {"float": [1]}]}
        return {"cat": "Node", "name": "/c1/Conv_kernel_time", "ts": ts, "dur": dur, "args": args}

    runs = [{"cat": "Session", "name": "model_run", "ts": ts, "dur": 50} for ts in (0, 100, 200)]
    nodes = [node(10, 9, "CUDAExecutionProvider", "float16"), node(110, 3, "CUDAExecutionProvider", "float16"),
             node(210, 5, "CUDAExecutionProvider", "float16")]  # fmt: skip
    (found,) = rows_of(json.dumps([*runs, *nodes]), 2, [])
    assert (found.times_ns, found.calls) == ([3000.0, 5000.0], 2)
    assert (found.place, found.precision, found.origins) == ("cuda", "fp16", ("/c1/Conv",))


def test_openvinos_counters_are_means_of_which_the_later_part_is_told() -> None:
    """As OpenVINO 2026.4 counts: a mean over all inferences since the model was compiled, the slow first one in it."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13

    data, kernel = opset13.parameter([1, 16, 32, 32], np.float32), opset13.constant(np.ones((16, 16, 3, 3), np.float32))
    made = opset13.convolution(data, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
    counters = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(openvino.Model([made], [data], "m"), "CPU", counters)
    request, batch = compiled.create_infer_request(), np.ones((1, 16, 32, 32), np.float32)

    def told() -> float:
        request.infer([batch])
        return max(info.real_time.total_seconds() * 1e6 for info in request.profiling_info)

    sums = [number * told() for number in range(1, 201)]
    # Of a mean in whole us the sum can but grow; of single inferences' times it would fall with each quicker one.
    assert all(after + number >= before for number, (before, after) in enumerate(itertools.pairwise(sums), 2))
    values = [100.0, 10.0, 10.0, 10.0, 10.0, *[7.0] * 15]
    assert later_mean(sum(values[:5]) / 5, 5, sum(values) / 20, 20) == pytest.approx(7.0)
    assert later_mean(5.0, 5, 1.0, 10) == 0.0


def test_openvino_lists_the_names_that_a_node_was_made_from() -> None:
    assert origins_of("/conv1/Conv/WithoutBiases,/relu/Relu") == (CONV1, RELU1)
    assert origins_of("") == ()


# torch.profiler on a GPU: events of the shape that it gives, without a GPU.


def event(name: str, *children: Any, kernels: tuple[tuple[str, float], ...] = (), number: int = 0) -> Any:
    return SimpleNamespace(
        name=name,
        id=number,
        cpu_children=list(children),
        kernels=[SimpleNamespace(name=kernel, duration=us) for kernel, us in kernels],
        device_type="DeviceType.CPU",
        self_cpu_time_total=1.0,
    )


def nested(found: Any) -> list[Any]:
    return [each for child in found.cpu_children for each in (child, *nested(child))]


def kernel(name: str, us: float) -> Any:
    span = SimpleNamespace(elapsed_us=lambda: us)
    return SimpleNamespace(name=name, device_type="DeviceType.CUDA", time_range=span, kernels=[], cpu_children=[])


class Recorder:
    """As much of torch as the profiler asks for; what it gives back are the events of a step."""

    __version__ = "2.2.0+cu121"

    def __init__(self, *events: Any) -> None:
        self.profiler = self
        self._events = events
        self.activities = ["cpu", "cuda"]
        self.ProfilerActivity = SimpleNamespace(CPU="cpu", CUDA="cuda")

    def record_function(self, _name: str) -> Any:
        return self

    def profile(self, activities: list[str]) -> Any:
        assert activities == self.activities
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def events(self) -> list[Any]:
        return list(self._events)


def test_kernels_count_with_their_module_their_operator_or_inside_of_an_engine() -> None:
    step = event(
        "inferfarm::iteration",
        event(
            "inferfarm::module::conv1",
            event("aten::conv2d", event("aten::cudnn_convolution", kernels=(("sgemm", 5.0), ("copy", 1.0)))),
        ),
        event("aten::add_", kernels=(("vectorized_add", 2.0),)),
        event("tensorrt::execute_engine", kernels=(("sm80_xmma_f16f16", 7.0), ("sm80_xmma_f16f16", 3.0))),
    )
    device = [kernel("sm80_xmma_f16f16", 7.0), kernel("sm80_xmma_f16f16", 3.0), kernel("triton_poi", 4.0)]
    device.append(kernel("inferfarm::iteration", 99.0))
    profiler = TorchLayers(Recorder(step, *nested(step), *device), None, on_gpu=True, by_module=False)
    rows = profiler.observe(lambda: None, 1)
    told = {(found.name, found.place): (found.times_ns, found.calls) for found in rows}
    assert told == {
        ("conv1", "pytorch"): ([6000.0], 2),
        ("aten::add_", "pytorch"): ([2000.0], 1),
        ("sm80_xmma_f16f16", TENSORRT): ([10000.0], 2),
        ("triton_poi", "pytorch"): ([4000.0], 1),
    }
    assert (profiler.clock, profiler.coarse) == ("device", True)
    assert next(found for found in rows if found.place == TENSORRT).precision == "fp16"


def test_kernels_of_another_operator_on_a_call_of_the_runtime_count_once() -> None:
    """torch 2.2 hangs an operator's kernels onto a call of the runtime, too, whose number happens to be the same."""
    stray = event("cudaLaunchKernel", kernels=(("sgemm", 5.0), ("triton_poi", 4.0)))
    step = event(
        "inferfarm::iteration",
        event("aten::add_", stray, event("cuLaunchKernelEx", kernels=(("sgemm", 5.0),)), kernels=(("add", 2.0),)),
        event("aten::mm", kernels=(("sgemm", 5.0),)),
    )
    device = [kernel("add", 2.0), kernel("sgemm", 5.0), kernel("triton_poi", 4.0)]
    rows = TorchLayers(Recorder(step, *nested(step), *device), None, True, False).observe(lambda: None, 1)
    assert {row.name: row.times_ns for row in rows} == {
        "aten::add_": [2000.0], "aten::mm": [5000.0], "triton_poi": [4000.0],
    }  # fmt: skip


def test_a_gpu_whose_kernels_are_not_seen_is_a_failure_and_no_table() -> None:
    step = event("inferfarm::iteration", event("aten::add_"))
    with pytest.raises(WorkflowError, match="told no layer") as caught:
        TorchLayers(Recorder(step), None, on_gpu=True, by_module=False).observe(lambda: None, 1)
    assert caught.value.reference == "profiler-silent"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("aten::conv2d", True), ("triton_poi_fused_0", True), ("tensorrt::execute_engine", True),
     ("Torch-Compiled Region: 0/0", False), ("inferfarm::iteration", False), ("ProfilerStep*", False)],
)  # fmt: skip
def test_which_events_are_operators(name: str, expected: bool) -> None:
    assert is_operator(name) == expected


def test_of_compiled_code_on_a_host_the_operators_are_told_and_the_rest_lies_between() -> None:
    def timed(name: str, us: float, *children: Any) -> Any:
        found = event(name, *children)
        found.time_range = SimpleNamespace(elapsed_us=lambda: us)
        return found

    region = timed("Torch-Compiled Region: 0/0", 90.0, timed("aten::mkldnn_convolution", 60.0), timed("helper", 1.0))
    recorder = Recorder(timed("inferfarm::iteration", 100.0, region))
    recorder.activities = ["cpu"]
    rows = TorchLayers(recorder, None, on_gpu=False, by_module=False).observe(lambda: None, 1)
    told = {(found.name, found.place): found.times_ns for found in rows}
    assert told == {("aten::mkldnn_convolution", "pytorch"): [60e3], ("(between operators)", BETWEEN): [40e3]}


def test_a_workflow_without_a_profiler_is_refused() -> None:
    from workers.workflows.base import Workflow

    workflow = Workflow.__new__(Workflow)
    workflow.ctx = SimpleNamespace(job=SimpleNamespace(workflow="some"))  # type: ignore[assignment]
    with pytest.raises(WorkflowError) as caught:
        workflow.layer_profiler()
    assert (str(caught.value.outcome), caught.value.reference) == ("unsupported", "profile-unsupported")
