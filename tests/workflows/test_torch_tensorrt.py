# SPDX-License-Identifier: Apache-2.0
"""`torch_tensorrt`: settings of each version, operators counted on real graphs, refusals, and the steps on a stand-in.

No line in here is a statement about hardware.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from farm.contract.codec import from_json, to_json
from farm.contract.device import DeviceInfo
from farm.contract.job import BatchLadder, Calibration, JobSpec, ModelSpec
from farm.contract.run import RunRequest, RunResult
from tests.island.harness import Island, model_job
from workers.workflows import torch_tensorrt as workflow
from workers.workflows import torch_trt_build, torch_trt_compat
from workers.workflows.errors import MissingLibrary, PrecisionNotHeld, Unsupported, WorkflowError
from workers.workflows.torch_trt_compat import Features, check, features, held_precision, settings

pytest.importorskip("torch")
import torch

from tests.workflows import standin_torch_trt
from workers.workflows import torch_trt_graph as graphs

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]

GPU = DeviceInfo("box-gpu0", "nvidia-x", "gpu", "box", "X", {"uuid": "GPU-0", "compute_capability": "9.0"})
SMALL = ModelSpec("squeezenet1_1", input_shape=(3, 64, 64))
_COMMON = ("disable_tf32", "require_full_compilation", "min_block_size")
_DYNAMO = (*_COMMON, "optimization_level")
#: What the versions' sources have, as far as it decides anything.
V2_2 = Features(
    "2.2.0",
    (*_DYNAMO, "enabled_precisions", "truncate_long_and_double", "output_format"),
    (*_COMMON, "enabled_precisions", "truncate_long_and_double", "calibrator"),
    False,
    ("entropy", "minmax"),
)
V2_9 = Features("2.9.0", (*_DYNAMO, "enabled_precisions", "truncate_double", "use_explicit_typing"), V2_2.ts, False, ())
V2_11 = replace(V2_9, version="2.11.0", strongly_typed=True)
V2_14 = Features("2.14.0", (*_DYNAMO, "truncate_double"), None, True, ())
NOTHING: dict[str, Any] = {}


def test_tf32_is_off_in_every_version_and_precision_but_tf32() -> None:
    for able in (V2_2, V2_9, V2_11, V2_14):
        for precision in ("fp32", "fp16"):
            assert settings(able, "dynamo", precision, NOTHING).keywords["disable_tf32"] is True
        assert settings(able, "dynamo", "tf32", NOTHING).keywords["disable_tf32"] is False
    assert settings(V2_2, "ts", "int8", NOTHING).keywords["disable_tf32"] is True


@pytest.mark.parametrize(
    ("able", "expected"),
    [(V2_2, ("float16",)), (V2_9, ("float16",)), (V2_11, ("float32",)), (V2_14, ())],
    ids=lambda value: getattr(value, "version", None),
)
def test_fp16_is_a_module_cast_to_half_and_a_flag_where_types_do_not_decide(
    able: Features, expected: tuple[str, ...]
) -> None:
    plan = settings(able, "dynamo", "fp16", NOTHING)
    assert (plan.module_dtype, plan.enabled_precisions) == ("float16", expected)
    assert plan.keywords.get("use_explicit_typing") == (True if able is V2_11 else None)


def test_the_oldest_version_gives_a_graph_module_and_only_it_is_asked_for_one() -> None:
    assert settings(V2_2, "dynamo", "fp32", NOTHING).keywords["output_format"] == "graph_module"
    assert "output_format" not in settings(V2_2, "ts", "fp32", NOTHING).keywords
    assert "output_format" not in settings(V2_9, "dynamo", "fp32", NOTHING).keywords


def test_long_constants_are_taken_under_the_name_that_the_version_has() -> None:
    assert "truncate_long_and_double" in settings(V2_2, "dynamo", "fp32", NOTHING).keywords
    assert "truncate_double" in settings(V2_14, "dynamo", "fp32", NOTHING).keywords


def test_int8_is_one_engine_with_a_calibrator() -> None:
    plan = settings(V2_2, "ts", "int8", NOTHING)
    assert plan.calibrate
    assert plan.keywords["require_full_compilation"] is True
    assert set(plan.enabled_precisions) == {"float32", "int8"}


@pytest.mark.parametrize(
    ("able", "frontend", "precision", "method", "options", "reference"),
    [
        (V2_2, "dynamo", "int8", "entropy", {}, "precision-unsupported"),
        (V2_9, "ts", "int8", "entropy", {}, "precision-unsupported"),
        (V2_2, "ts", "int8", "percentile", {}, "calibration-unsupported"),
        (V2_14, "ts", "fp32", None, {}, "frontend-unsupported"),
        (V2_2, "ts", "fp32", None, {"optimization_level": 3}, "option-unsupported"),
    ],
)
def test_what_a_version_cannot_do_is_refused_with_a_way_out(
    able: Features, frontend: str, precision: str, method: str | None, options: dict[str, Any], reference: str
) -> None:
    with pytest.raises(Unsupported) as caught:
        check(able, frontend, precision, method, options)
    assert caught.value.reference == reference
    assert caught.value.hint


def test_features_are_looked_for_and_not_read_from_the_version() -> None:
    assert features(standin_torch_trt.torch_tensorrt([], 9, False)) == Features(
        "2.2.0+stand-in",
        (
            "exported_program", "inputs", "disable_tf32", "enabled_precisions", "truncate_long_and_double",
            "require_full_compilation", "min_block_size", "optimization_level", "output_format",
        ),
        (
            "module", "inputs", "disable_tf32", "enabled_precisions", "calibrator", "truncate_long_and_double",
            "require_full_compilation", "min_block_size",
        ),
        False,
        ("entropy", "minmax"),
    )  # fmt: skip

    def explicit(exported_program: Any, enabled_precisions: Any = None, use_explicit_typing: bool = True) -> None: ...

    newer: Any = SimpleNamespace(
        __version__="9",
        dynamo=SimpleNamespace(compile=explicit),
        ts=SimpleNamespace(compile=explicit),
        ENABLED_FEATURES=SimpleNamespace(torchscript_frontend=False),
    )
    found = features(newer)
    assert (found.strongly_typed, found.ts, found.calibrators) == (True, None, ())


def test_the_precision_held_is_that_of_the_settings_and_of_torch() -> None:
    def held(able: Features, precision: str, fp32: str = "fp32", size: int = 4000) -> str:
        frontend = "ts" if precision == "int8" else "dynamo"
        return held_precision(settings(able, frontend, precision, NOTHING).facts(), size, 1000, fp32)

    assert [held(V2_2, p) for p in ("fp32", "fp16")] == ["fp32", "fp16"]
    assert held(V2_14, "fp16") == "fp16"
    assert held(V2_2, "tf32", "tf32") == "tf32"
    assert held(V2_2, "int8", size=1100) == "int8"
    with pytest.raises(PrecisionNotHeld, match="none is in int8"):
        held(V2_2, "int8", size=4100)
    with pytest.raises(PrecisionNotHeld):
        held(V2_2, "fp32", "tf32")


class _Net(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.drop = torch.nn.Dropout()

    def forward(self, x: Any) -> Any:
        first, second = torch.chunk(torch.relu(self.conv(x)), 2, dim=1)
        return self.drop(first + second).mean(dim=(2, 3))


def test_operators_of_a_torchscript_graph_are_those_that_compute_tensors() -> None:
    traced = torch.jit.trace(_Net().eval(), torch.zeros(1, 3, 8, 8))
    names = graphs.script_operators(traced.inlined_graph)
    assert names == ["aten::_convolution", "aten::relu", "aten::chunk", "aten::add", "aten::mean"]


_COMPILED = """
graph(%self : __torch__.Net, %x : Tensor):
  %dim : int = prim::Constant[value=1]()
  %y : Tensor = aten::relu(%x)
  %holder : __torch__.Part = prim::GetAttr[name="_run_on_acc_0"](%self)
  %engine : Tensor = prim::GetAttr[name="engine"](%holder)
  %list : Tensor[] = prim::ListConstruct(%y)
  %results : Tensor[] = tensorrt::execute_engine(%list, %engine)
  %out : Tensor = prim::ListUnpack(%results)
  %end : Tensor = aten::softmax(%out, %dim)
  return (%end)
"""


def test_engines_and_what_is_left_are_found_in_a_compiled_torchscript_graph() -> None:
    after = torch._C.parse_ir(_COMPILED.replace("__torch__.Net", "Any").replace("__torch__.Part", "Any"))
    before = torch.jit.trace(_Net().eval(), torch.zeros(1, 3, 8, 8)).inlined_graph
    assert graphs.engine_paths(after) == [("_run_on_acc_0", "engine")]
    found = graphs.script_partition(before, after)
    assert (found.engines, found.total, found.left) == (1, 5, ("aten::relu", "aten::softmax"))
    assert found.share_left() == 0.4


def test_operators_of_an_exported_graph_are_counted_through_its_parts_and_not_in_engines() -> None:
    exported = torch.export.export(_Net().eval(), (torch.zeros(1, 3, 8, 8),)).run_decompositions().module()
    whole = graphs.fx_operators(exported, set())
    assert any("convolution" in name or "conv2d" in name for name in whole)
    assert not any("getitem" in name for name in whole)
    graph = torch.fx.Graph()
    inner = graph.call_module("engine", (graph.call_module("part", (graph.placeholder("x"),)),))
    graph.output((graph.call_function(torch.relu, (inner,)),))
    compiled = torch.fx.GraphModule({"part": exported, "engine": torch.nn.Identity()}, graph)
    assert len(graphs.fx_operators(compiled, {id(compiled.engine)})) == len(whole) + 1
    assert len(graphs.fx_operators(compiled, set())) == len(whole) + 2


def test_conversions_are_watched_and_the_library_is_left_as_it_was() -> None:
    compiler = SimpleNamespace(convert_module=lambda module, inputs, name: torch.nn.Identity())
    original = compiler.convert_module
    part = torch.fx.symbolic_trace(_Net().eval())
    with graphs.watched(compiler) as seen:
        made = compiler.convert_module(part, [], name="_run_on_acc_0")
    assert compiler.convert_module is original
    graph = torch.fx.Graph()
    out = graph.call_function(torch.relu, (graph.call_module("_run_on_acc_0", (graph.placeholder("x"),)),))
    graph.output((out,))
    found = seen.partition(torch.fx.GraphModule({"_run_on_acc_0": made}, graph))
    assert (found.engines, found.total - len(found.left), len(found.left)) == (1, seen.operators, 1)


def test_a_model_without_an_engine_is_no_measurement() -> None:
    with pytest.raises(WorkflowError) as caught:
        torch_trt_build.check_partition(graphs.Partition(0, 2, ("aten::relu", "aten::add")), False)
    assert caught.value.reference == "no-engine"
    some_left = graphs.Partition(1, 2, ("aten::relu",))
    torch_trt_build.check_partition(some_left, False)
    with pytest.raises(Unsupported):
        torch_trt_build.check_partition(some_left, True)


def test_only_a_single_output_is_taken_out_of_a_tuple() -> None:
    assert torch_trt_build.output_of((1,)) == torch_trt_build.output_of([1]) == torch_trt_build.output_of(1) == 1
    with pytest.raises(WorkflowError):
        torch_trt_build.output_of((1, 2))


@pytest.mark.parametrize("batch", [None, 1])
def test_a_stack_without_the_library_is_unsupported_with_a_hint(shared: Island, batch: int | None) -> None:
    failure = shared.run(model_job(SMALL, "torch_tensorrt"), batch).failed("unsupported", "missing-library").failure
    assert failure is not None
    assert "no torch_tensorrt" in failure.message
    assert "torch-tensorrt" in (failure.hint or "")


@pytest.mark.parametrize(
    ("changes", "reference"),
    [
        ({"options": {"frontend": "fx"}}, "unknown-option"),
        ({"options": {"min_block_size": 0}}, "unknown-option"),
        ({"options": {"optimization_level": 6}}, "unknown-option"),
        ({"options": {"streams": 2}}, "unknown-option"),
        ({"precision": "int8"}, "precision-unsupported"),
        ({"precision": "bf16"}, "precision-unsupported"),
        ({"model": ModelSpec("m", "onnx", onnx_sha256="0" * 64)}, "source-unsupported"),
    ],
)
def test_what_no_version_can_do_is_refused_before_anything_is_imported(
    shared: Island, changes: dict[str, Any], reference: str
) -> None:
    fields = {"model": SMALL, "workflow": "torch_tensorrt", **changes}
    shared.run(model_job(**fields)).failed("unsupported", reference)


def test_a_library_that_does_not_import_is_missing_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> Any:
        raise RuntimeError("Unable to get current device")

    monkeypatch.setattr(torch_trt_compat, "require_installed", lambda: None)
    monkeypatch.setattr(torch_trt_compat.importlib, "import_module", broken)
    with pytest.raises(MissingLibrary, match="Unable to get current device"):
        torch_trt_compat.import_torch_tensorrt()


Run = Callable[..., RunResult]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Put the stand-in where the library would be, with the CPU as the "GPU"; gives the calls of its compiler."""
    quiet = {"synchronize": lambda: None, "cache_bytes": lambda: None, "timer": lambda: None}
    here = SimpleNamespace(name="cpu", facts=dict, metrics=dict, **quiet)

    def install(limit: int = 10**9, leave: bool = False, plan_bytes: int = 1000) -> list[Any]:
        seen: list[Any] = []
        module: ModuleType = standin_torch_trt.torch_tensorrt(seen, limit, leave)
        monkeypatch.setitem(sys.modules, "torch_tensorrt", module)
        monkeypatch.setattr(workflow, "require_installed", lambda: None)
        monkeypatch.setattr(torch_trt_compat, "require_installed", lambda: None)
        monkeypatch.setattr(workflow, "TorchDevice", lambda *_: here)
        monkeypatch.setattr(torch_trt_build, "_engine_bytes", lambda *_: plan_bytes)
        return seen

    monkeypatch.setattr("workers.workflows.base.versions", lambda *names: dict.fromkeys(names, "0"))
    return install


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Prepare (no batch) or measure in this process."""
    count = iter(range(100))

    def do(spec: JobSpec, batch: int | None = None) -> RunResult:
        from workers.runner.stages import run_request

        control = tmp_path / f"run-{next(count)}"
        control.mkdir()
        mode = "prepare" if batch is None else "measure"
        request = RunRequest("r", mode, spec, GPU, str(tmp_path / "cache"), batch, None)
        (control / "request.json").write_text(json.dumps(to_json(request)))
        run_request(str(control))
        return from_json(RunResult, json.loads((control / "result.json").read_text()))

    return do


def job(precision: str = "fp32", sizes: tuple[int, ...] = (1, 2), **options: Any) -> JobSpec:
    more = {"calibration": Calibration("entropy", 8, 4)} if precision == "int8" else {}
    return model_job(SMALL, "torch_tensorrt", precision, batches=BatchLadder(sizes), options=options, **more)


@pytest.mark.parametrize("frontend", ["dynamo", "ts"])
def test_token_ids_are_int32_beside_a_module_in_half(
    run: Run, stand_in: Callable[..., list[Any]], frontend: str
) -> None:
    seen = stand_in()
    tokens = ModelSpec("bert-tiny", "encoder", (8,))
    spec = replace(job("fp16", sizes=(2,), frontend=frontend), model=tokens)
    ok(run(spec))
    found = ok(run(spec, 2))
    assert [(call["shape"], call["dtype"]) for call in seen] == [((2, 8), torch.int32)]
    assert found.effective["precision"] == "fp16"
    assert found.metrics["relative_l2_error"] < 5e-3


def ok(result: RunResult) -> RunResult:
    assert result.outcome == "ok", result.failure
    return result


@pytest.mark.parametrize(
    ("precision", "options"),
    [("fp32", {}), ("fp32", {"frontend": "ts"}), ("int8", {"frontend": "ts"})],
    ids=["dynamo", "ts", "int8"],
)
def test_a_job_goes_from_weights_to_samples(
    stand_in: Callable[..., list[Any]], run: Run, precision: str, options: dict[str, Any]
) -> None:
    seen, spec = stand_in(), job(precision, **options)
    prepared = ok(run(spec))
    kinds = [a.kind for a in prepared.artifacts]
    assert kinds.count("torch_tensorrt") == 2
    assert kinds.count("trt_calibration") == (1 if precision == "int8" else 0)
    shapes = [call["shape"][0] for call in seen]
    assert shapes == ([4, 1, 2] if precision == "int8" else [1, 2]), (
        "calibrated at its own batch, then each of the ladder"
    )
    measured = ok(run(spec, 2))
    assert len(seen) == len(shapes), "measuring never compiles"
    effective = measured.effective
    assert (effective["precision"], effective["engines"], effective["provider"]) == (precision, 1, "torch_tensorrt")
    assert measured.metrics["relative_l2_error"] < 1e-5
    left = 0 if options else 2
    assert (effective["operators_in_pytorch"], len(effective["left_in_pytorch"])) == (left, left)
    assert measured.metrics["fallback_node_share"] == pytest.approx(left / effective["operators_total"])
    assert measured.metrics["build_s"] > 0


def test_everything_left_in_pytorch_is_a_failure_and_nothing_is_measured(
    stand_in: Callable[..., list[Any]], run: Run
) -> None:
    stand_in(leave=True)
    for options in ({}, {"frontend": "ts"}):
        failure = run(job(**options)).failure
        assert failure is not None
        assert failure.reference == "no-engine"


def test_a_batch_that_does_not_fit_ends_the_ladder_there_and_says_so_where_it_is_measured(
    stand_in: Callable[..., list[Any]], run: Run
) -> None:
    stand_in(limit=2)
    spec = job(sizes=(1, 2, 4))
    ok(run(spec))
    ok(run(spec, 1))
    for batch in (2, 4):
        result = run(spec, batch)
        assert result.failure is not None
        assert (result.outcome, result.failure.reference) == ("out_of_memory", "out-of-memory-build")
    assert run(replace(spec, generation=1), 2).failure.reference == "not-prepared"  # type: ignore[union-attr]


def test_an_engine_that_is_not_the_recorded_one_is_not_loaded(
    stand_in: Callable[..., list[Any]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in()
    spec = job(sizes=(1,))
    prepared = ok(run(spec))
    (path,) = [a.path for a in prepared.artifacts if a.kind == "torch_tensorrt"]
    # Changed between the cache's look and the read: the cache itself finds every earlier change.
    found = workflow.CompiledModels.compiled

    def tampered(self: Any, batch: int) -> Any:
        entry = found(self, batch)
        Path(path).write_bytes(b"other")
        return entry

    monkeypatch.setattr(workflow.CompiledModels, "compiled", tampered)
    failure = run(spec, 1).failure
    assert failure is not None
    assert failure.reference == "engine-not-recorded"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"driver_version": "2"}, False),
        ({"compute_capability": "8.0"}, False),
        ({"memory_bytes": 1}, False),
        ({"device_class": "nvidia-y"}, False),
        ({"precision": "fp16"}, False),
        ({"options": {"min_block_size": 3}}, False),
        ({"options": {"frontend": "ts"}}, False),
        ({"options": {"frontend": "dynamo"}}, True),
        ({"model": replace(SMALL, weights="random:1")}, False),
        ({"model": replace(SMALL, input_shape=(3, 96, 96))}, False),
        ({"batch": 2}, False),
        ({"versions": "1"}, False),
    ],
    ids=str,
)
def test_an_engine_is_found_again_only_by_all_that_it_depends_on(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], same: bool
) -> None:
    def key(**changed: Any) -> Any:
        spec = model_job(
            changed.get("model", SMALL), "torch_tensorrt", changed.get("precision", "fp32"),
            options=changed.get("options", {}),
        )  # fmt: skip
        facts = {**GPU.facts, **{k: v for k, v in changed.items() if k in ("driver_version", "memory_bytes")}}
        facts["compute_capability"] = changed.get("compute_capability", "9.0")
        device = replace(GPU, facts=facts, device_class=changed.get("device_class", GPU.device_class))
        version = changed.get("versions", "0")
        monkeypatch.setattr("workers.workflows.base.versions", lambda *n: dict.fromkeys(n, version))
        context: Any = SimpleNamespace(job=spec, request=SimpleNamespace(device=device))
        asked = changed.get("model", SMALL)
        weights: Any = SimpleNamespace(
            key=lambda: {"weights": asked.weights, "input_shape": list(asked.input_shape)},
            weights=lambda: SimpleNamespace(sha256=asked.weights),
        )
        models = workflow.CompiledModels(context, weights)
        models._able = V2_2
        return models._key(changed.get("batch", 1))

    assert (key() == key(**change)) is same
