# SPDX-License-Identifier: Apache-2.0
"""The parts of ONNX Runtime's GPU workflows that a machine without a GPU can show: options, tables, profiles, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from farm.contract.archive import pack
from tests.workflows.onnx_models import save_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
from workers.workflows import archive, cuda_driver, onnx_half, onnx_session, ort_engines, ort_placement, tf32
from workers.workflows import ort_options as options
from workers.workflows import ort_providers as providers
from workers.workflows import ort_table as table
from workers.workflows.errors import (
    BuildOutOfMemory,
    NotPrepared,
    PrecisionNotHeld,
    ProviderFellBack,
    Unsupported,
    WorkflowError,
)

pytestmark = pytest.mark.filterwarnings("ignore")
RANGES = {"image": (0.0, 1.0), "c": (-3.5, 1.0), "never": (0.0, 0.0), "subnormal": (0.0, 1e-42)}


# Options


@pytest.mark.parametrize(
    ("version", "precision", "switch"),
    [("1.17.1", "fp32", None), ("1.18.0", "fp32", "0"), ("1.31.1", "tf32", "1"), ("1.20.1", "int8", "0")],
)
def test_cuda_gets_the_tf32_switch_where_its_version_has_one(version: str, precision: str, switch: str | None) -> None:
    assert options.cuda_options(version, precision).get("use_tf32") == switch


def test_trt_options_name_one_profile_the_table_and_no_precision_that_was_not_asked_for() -> None:
    plan = options.TrtPlan("int8", "/cache", "image", (4, 3, 16, 16), table.NAME, level=5)
    made = options.trt_options(plan)
    assert made["trt_profile_min_shapes"] == made["trt_profile_max_shapes"] == "image:4x3x16x16"
    assert (made["trt_int8_enable"], made["trt_fp16_enable"]) == ("True", "False")
    assert made["trt_int8_calibration_table_name"] == "calibration.flatbuffers"
    assert made["trt_int8_use_native_calibration_table"] == "False"
    assert made["trt_builder_optimization_level"] == "5"
    assert options.trt_options(options.TrtPlan("int8", "/c", allow_fp16=True))["trt_fp16_enable"] == "True"
    plain = options.trt_options(options.TrtPlan("tf32", "/cache"))
    assert not [name for name in plain if "shapes" in name or "calibration" in name or "level" in name]
    assert (plain["trt_fp16_enable"], plain["trt_int8_enable"]) == ("False", "False")


def test_every_option_is_text_as_both_parsers_of_options_take_it() -> None:
    made = options.trt_options(options.TrtPlan("fp16", "/cache", "x", (1, 3), "t", 3, dump=True))
    assert all(isinstance(value, str) for value in made.values())
    assert {value for name, value in made.items() if name.endswith("_enable")} <= {"True", "False"}


def test_what_is_read_back_must_be_what_was_set() -> None:
    plan = options.TrtPlan("fp16", "/cache")
    good = {"trt_fp16_enable": "1", "trt_int8_enable": "0"}
    assert options.held_trt(good, ["TRTKernel_graph_my_int8_1_0_0_fp16_sm90.engine"], plan) == "fp16"
    for bad in ({**good, "trt_fp16_enable": "0"}, {**good, "trt_int8_enable": "1"}, {}):
        with pytest.raises(PrecisionNotHeld):
            options.held_trt(bad, [], plan)
    for name in ("k_1_0_sm90.engine", "k_1_0_fp16_int8_sm90.engine", "k_1_0_int8_sm90.engine", "odd.engine"):
        with pytest.raises(PrecisionNotHeld, match="engine"):
            options.held_trt(good, [name], plan)
    assert "no switch" in options.held_cuda({}, "fp32")
    with pytest.raises(PrecisionNotHeld, match="use_tf32=1"):
        options.held_cuda({"use_tf32": "1"}, "fp32")
    with pytest.raises(PrecisionNotHeld):
        options.held_cuda({"use_tf32": "0"}, "tf32")


@pytest.mark.parametrize(
    ("onnxruntime", "numpy", "reference"),
    [
        ("onnxruntime-gpu 1.16.3", "numpy 1.26.4", "onnxruntime-too-old"),
        ("onnxruntime 1.20.1, onnxruntime-gpu 1.16.3", "numpy 1.26.4", "onnxruntime-too-old"),
        ("onnxruntime-gpu 1.17.1", "numpy 2.1.0", "numpy-too-new"),
        ("onnxruntime-gpu nightly", "numpy 2.1.0", "onnxruntime-too-old"),
    ],
)
def test_versions_that_cannot_work_are_refused(onnxruntime: str, numpy: str, reference: str) -> None:
    with pytest.raises(Unsupported) as caught:
        options.check_versions(onnxruntime, numpy)
    assert caught.value.reference == reference


def test_versions_that_work_are_not_refused() -> None:
    options.check_versions("onnxruntime-gpu 1.17.1", "numpy 1.26.4")
    options.check_versions("onnxruntime-gpu 1.31.1", "numpy 2.4.6")
    options.check_tensorrt("int8", 10, 5)
    options.check_tensorrt("fp32", 11, None)


# TF32


def test_tf32_is_off_before_anything_loads_and_cannot_be_turned_off_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tf32.VARIABLE, raising=False)
    monkeypatch.setattr(tf32, "loaded", lambda: {"libcublas.so.12"})
    with pytest.raises(PrecisionNotHeld, match="loaded already"):
        tf32.hold("fp32")
    tf32.hold("tf32")
    assert tf32.assert_held("tf32") == "NVIDIA_TF32_OVERRIDE is not set"
    with pytest.raises(PrecisionNotHeld):
        tf32.assert_held("fp32")
    monkeypatch.setattr(tf32, "loaded", set)
    tf32.hold("fp32")
    assert tf32.assert_held("fp32") == "NVIDIA_TF32_OVERRIDE=0"
    monkeypatch.setattr(tf32, "loaded", lambda: {"libcublas.so.12"})
    tf32.hold("int8")  # the environment had it off from the start


def test_loaded_libraries_are_read_from_the_maps(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp 00 08:01 12 /opt/x/libnvinfer.so.8.6.0\n7f02-7f03 r--p 0 08:01 13 /lib/libc.so.6\n")
    assert tf32.loaded(str(maps)) == {"libnvinfer.so.8.6.0"}
    assert tf32.loaded(str(tmp_path / "none")) == set()


# The calibration table


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / table.NAME
    assert table.write(RANGES, str(path)) == 2
    return path


def test_a_table_holds_the_largest_magnitude_and_no_tensor_without_a_range(written: Path) -> None:
    assert table.read(str(written)) == {"image": 1.0, "c": 3.5}
    assert [path.name for path in written.parent.iterdir()] == [table.NAME]


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:40], lambda b: b"\0" * len(b)], ids=range(3))
def test_a_damaged_table_is_refused(written: Path, damage: Any) -> None:
    written.write_bytes(damage(written.read_bytes()))
    with pytest.raises(WorkflowError) as caught:
        table.read(str(written))
    assert caught.value.reference == "calibration-failed"


def test_a_table_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="0 tensors"):
        table.write({"never": (0.0, 0.0)}, str(tmp_path / "empty"))


def test_coverage_is_of_activations_and_not_of_weights(tmp_path: Path) -> None:
    import onnx

    graph = onnx.load(str(save_model(tmp_path / "m.onnx"))).graph
    all_of_them = {"image", "x", "c", "r", "m", "scores"}
    assert table.coverage([graph], all_of_them) == {"tensors": 6, "named": 6, "compute": 2, "compute_covered": 2}
    assert table.coverage([graph], {"x", "c", "elsewhere"})["compute_covered"] == 1
    unused = table.coverage([graph], {"other"})
    with pytest.raises(PrecisionNotHeld) as caught:
        table.assert_used(unused, "")
    assert caught.value.reference == "calibration-not-used"


def test_tensors_without_a_range_are_counted_once_each() -> None:
    line = "[TensorRT EP] Missing scale and zero-point for tensor {}, expect fall back to non-int8 implementation\n"
    log = line.format("a") + line.format("a") + line.format("(Unnamed Layer* 3) [Shuffle]_output")
    covered = {"tensors": 4, "named": 2, "compute": 2, "compute_covered": 1}
    assert table.assert_used(covered, log)["tensors_without_range"] == 2


def test_only_the_graphs_given_to_tensorrt_are_read(tmp_path: Path) -> None:
    save_model(tmp_path / "TensorrtExecutionProvider_TRTKernel_graph_main_1_0_0.onnx")
    save_model(tmp_path / "TensorrtExecutionProvider_TRT_Subgraph.onnx")
    assert len(table.subgraphs(str(tmp_path))) == 1


# Where nodes ran


@pytest.fixture
def profile(tmp_path: Path) -> str:
    """The profile of two runs on the CPU provider."""
    import numpy as np

    session = onnx_session.open_session(str(save_model(tmp_path / "m.onnx")), 1, None, str(tmp_path / "profile"))
    for _ in range(2):
        session.run(None, {"image": np.zeros((1, 3, 8, 8), np.float32)})
    return Path(session.end_profiling()).read_text()


def test_a_real_profile_gives_each_node_once(profile: str) -> None:
    found = ort_placement.placement(profile, providers.CPU)
    assert set(found["nodes"]) == {providers.CPU}
    assert 3 <= found["nodes"][providers.CPU] <= 8
    assert (found["fallback_share"], found["copies"], found["fused"]) == (0.0, 0, 0)
    assert (found["compute"], found["compute_int8"]) == (2, 0)


def test_nodes_inside_a_fused_one_count_as_the_providers(profile: str) -> None:
    there = ort_placement.placement(profile, providers.CPU)["nodes"][providers.CPU]
    events = json.loads(profile)
    first = next(event["name"] for event in events if event["name"].endswith("_kernel_time"))
    for event in events:
        if event["name"] == first:
            event["args"]["provider"] = providers.TENSORRT
    found = ort_placement.placement(json.dumps(events), providers.TENSORRT, 30)
    assert found["fused"] == 1
    assert found["nodes"] == {providers.TENSORRT: 30, providers.CPU: there - 1}
    assert found["fallback_share"] == pytest.approx((there - 1) / (there + 29))


def test_a_provider_that_ran_nothing_fell_back(profile: str) -> None:
    with pytest.raises(ProviderFellBack, match="no node"):
        ort_placement.placement(profile, providers.CUDA)
    for empty in ("[]", "not json"):
        with pytest.raises(WorkflowError):
            ort_placement.placement(empty, providers.CPU)


# Engines in the cache


def test_an_engine_that_is_new_changed_or_gone_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "a_sm90.engine").write_bytes(b"one")
    (tmp_path / "a_sm90.profile").write_bytes(b"shape")
    recorded = ort_engines.digests(str(tmp_path))
    (tmp_path / "x_sm90.timing").write_bytes(b"only builds read it")
    ort_engines.assert_nothing_new(str(tmp_path), recorded)
    assert ort_engines.engine_bytes(str(tmp_path)) == 3
    for name, content in (("b_sm90.engine", b"new"), ("a_sm90.engine", b"two")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(NotPrepared, match=name):
            ort_engines.assert_nothing_new(str(tmp_path), recorded)
    (tmp_path / "a_sm90.engine").unlink()
    with pytest.raises(NotPrepared):
        ort_engines.assert_nothing_new(str(tmp_path), recorded)


def test_an_archive_comes_back_as_it_was_and_damage_shows(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "engine.zip"
    source.mkdir()
    (source / "a.engine").write_bytes(os.urandom(4096))
    pack(str(source), ["a.engine"], str(path))
    archive.unpack(str(path), str(tmp_path / "target"))
    assert (tmp_path / "target/a.engine").read_bytes() == (source / "a.engine").read_bytes()
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorkflowError) as caught:
        archive.unpack(str(path), str(tmp_path / "again"))
    assert caught.value.reference == "cache-unusable"


@pytest.mark.parametrize("log", ["[E] Error Code 2: OutOfMemory (no further information)", "CUDA failure 2: out of"])
def test_out_of_memory_shows_in_what_tensorrt_wrote(log: str) -> None:
    error = RuntimeError("EP_FAIL : TensorRT EP could not build engine for fused node")
    assert isinstance(ort_engines.explained(error, log, 8), BuildOutOfMemory)
    assert ort_engines.explained(error, "[W] slow", 8) is error


# Providers


def test_what_a_provider_writes_is_caught_and_written_all_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    with providers.captured() as said:
        os.write(2, b"Failed to load library\n")
    assert said.text == "Failed to load library\n"
    assert capfd.readouterr().err == said.text


def test_the_stack_of_a_crash_is_not_caught_with_it() -> None:
    code = (
        f"import ctypes, faulthandler, sys; sys.path.insert(0, {providers._ROOT!r}); faulthandler.enable()\n"
        "from workers.workflows.ort_providers import captured\n"
        "with captured(): ctypes.string_at(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode < 0
    assert "Segmentation fault" in done.stderr


def test_the_tiny_model_is_one_that_runs() -> None:
    import numpy as np
    import onnxruntime as ort

    session = providers.strict_session(ort, providers._RELU, None, [providers.CPU])
    assert session.run(None, {"x": np.float32([-2])})[0].tolist() == [0]
    assert providers.why_not(ort, providers.CPU) is None
    assert "is built without it" in (providers.why_not(ort, providers.CUDA) or "")


def test_a_process_that_dies_while_it_tries_is_a_reason_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_TRY", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert providers._ask(providers.CUDA) == "loading it ended the process with code -11"
    monkeypatch.setattr(providers, "_TRY", "import threading; threading.Event().wait()")
    monkeypatch.setattr(providers, "_LIMIT_S", 0.2)
    assert providers._ask(providers.CUDA) == "it did not load within 0.2 s"


def test_the_cause_is_taken_out_of_what_surrounds_it() -> None:
    load = "\x1b[1;31m2026 [E] x.cc:1209 Get() Failed to load library p.so with error: libcublas.so.11: no\n\x1b[m"
    assert providers._cause(load) == "Failed to load library p.so with error: libcublas.so.11: no"
    cuda = "a.cc:121 [with X = Y] CUDA failure 35: driver too old ; GPU=-182 ; hostname=box ; file=z"
    assert providers._cause(cuda) == "CUDA failure 35: driver too old"
    assert providers._cause("one\n\ntwo\n") == "two"


@pytest.mark.parametrize(
    ("number", "expected"), [(8600, (8, "8.6.0")), (8503, (8, "8.5.3")), (101601, (10, "10.16.1"))]
)
def test_tensorrts_version_number_is_read(number: int, expected: tuple[int, str]) -> None:
    assert providers.tensorrt_version(number) == expected


def test_the_library_that_a_provider_needs_is_read_from_its_file(tmp_path: Path) -> None:
    library = tmp_path / "provider.so"
    library.write_bytes(b"\x7fELF\0libcudart.so.12\0libnvinfer.so.10\0libnvinfer_plugin.so.10\0")
    assert providers.needed_library(str(library)) == "libnvinfer.so.10"
    with pytest.raises(Unsupported, match="no TensorRT provider"):
        providers.needed_library(str(tmp_path / "none.so"))


def test_a_host_without_a_driver_has_no_gpu_and_no_cache_size() -> None:
    with pytest.raises(Unsupported) as caught:
        cuda_driver.check_one_gpu("libnothing-of-that-name.so.1")
    assert caught.value.reference == "gpu-not-usable"
    assert cuda_driver.l2_cache_bytes("libnothing-of-that-name.so.1") is None


# fp16 as a file


def test_nodes_are_sorted_and_otherwise_keep_their_order() -> None:
    from onnx import helper

    nodes = [
        helper.make_node("Relu", ["b"], ["c"], name="third"),
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["x"], ["side"], name="side"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    graph = helper.make_graph(nodes, "g", [], [])
    onnx_half.sort_nodes(graph)
    assert [node.name for node in graph.node] == ["first", "side", "second", "third"]


def test_a_file_that_stayed_in_fp32_is_not_fp16() -> None:
    good = {"float_types": ["FLOAT16"], "compute": 2, "compute_half": 2}
    onnx_half.assert_fp16(good)
    for bad in ({**good, "compute_half": 1}, {**good, "float_types": ["FLOAT"]}):
        with pytest.raises(PrecisionNotHeld):
            onnx_half.assert_fp16(bad)
