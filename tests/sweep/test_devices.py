# SPDX-License-Identifier: Apache-2.0
"""Selectors and stacks: which device is meant, which interpreter can do the work, and why none can."""

from __future__ import annotations

from typing import Any

import pytest

from farm.contract.device import DeviceInfo, StackInfo
from farm.devices import Refusal, Selector, choose_stack, parse_conditions, selector_matches

GPU = DeviceInfo(
    "box-gpu0",
    "nvidia-x",
    "gpu",
    "box",
    "X",
    {"compute_capability": "8.6", "memory_bytes": 12 * 2**30, "cores": 16, "clock_ghz": 1.5, "name": "X", "mig": False},
)
CPU = DeviceInfo("box-cpu", "cpu-x", "cpu", "box", "C", {"cores": 4})
FULL = {"torch": "2.8", "torchvision": "0.23", "numpy": "2", "onnx": "1.17", "onnxruntime": "1.20"}


def stack(name: str, libraries: dict[str, str], problems: dict[str, str] | None = None) -> StackInfo:
    return StackInfo(name, f"/opt/{name}/python", "3.11.7", libraries, problems or {})


@pytest.mark.parametrize(
    ("fact", "wanted", "expected"),
    [
        ("compute_capability", ">=8.0", True),
        ("compute_capability", ">=8", True),
        ("compute_capability", ">=8.10", False),
        ("compute_capability", ">8.6", False),
        ("compute_capability", "8.6", True),
        ("compute_capability", "==8.6.0", True),
        ("compute_capability", "!=8.6", False),
        ("compute_capability", ">=8.0, <9", True),
        ("compute_capability", ">=8.0, <8.6", False),
        ("compute_capability", 8.6, True),
        ("memory_bytes", ">=12GiB", True),
        ("memory_bytes", ">12GiB", False),
        ("memory_bytes", ">=12.5GB", True),
        ("memory_bytes", "<1TB", True),
        ("cores", 16, True),
        ("cores", "16", True),
        ("cores", ">=9", True),
        ("clock_ghz", ">=1.25", True),
        ("clock_ghz", "<1.25", False),
        ("name", "X", True),
        ("name", "!=Y", True),
        ("name", ">=8", False),
        ("mig", False, True),
        ("mig", True, False),
        ("mig", 0, False),
        ("cores", True, False),
        ("absent", ">=0", False),
        ("absent", "!=1", False),
    ],
)
def test_a_fact_meets_a_comparison(fact: str, wanted: Any, expected: bool) -> None:
    assert selector_matches(Selector(conditions=parse_conditions(fact, wanted)), GPU) is expected


@pytest.mark.parametrize("wanted", [">=", ">=x", "> 8 9", ">=8,", "=8", "!"])
def test_a_broken_comparison_is_refused(wanted: str) -> None:
    with pytest.raises(ValueError, match=r"comparison|order"):
        parse_conditions("cores", wanted)


def test_a_selector_means_all_that_it_names() -> None:
    assert selector_matches(Selector(), GPU)
    assert selector_matches(Selector(device_class="nvidia-x"), GPU)
    assert selector_matches(Selector(kind="gpu", conditions=parse_conditions("cores", ">8")), GPU)
    assert not selector_matches(Selector(kind="cpu", conditions=parse_conditions("cores", ">8")), GPU)
    assert not selector_matches(Selector(device_id="box-gpu1"), GPU)


def test_the_first_stack_that_has_everything_is_chosen() -> None:
    stacks = [stack("bare", {}), stack("old", FULL, {"torch": "libc"}), stack("good", FULL), stack("better", FULL)]
    chosen = choose_stack("pytorch", "fp32", CPU, stacks)
    assert isinstance(chosen, StackInfo)
    assert chosen.name == "good"


@pytest.mark.parametrize(
    ("workflow", "precision", "device", "stacks", "reference", "words"),
    [
        ("warp", "fp32", CPU, [], "unknown-workflow", "'warp'"),
        ("pytorch", "int8", CPU, [stack("a", FULL)], "precision-unsupported", "pytorch does not run int8"),
        ("onnxruntime_cpu", "fp32", GPU, [stack("a", FULL)], "device-kind-unsupported", "does not run on a gpu"),
        ("pytorch", "fp16", CPU, [stack("a", FULL)], "precision-unsupported", "does not run fp16 on a cpu"),
        ("pytorch", "fp32", CPU, [], "no-stack", "box-cpu has no stack"),
        ("pytorch", "fp32", CPU, [stack("a", {"torch": "2"})], "library-missing", "no torchvision, no numpy"),
        ("pytorch", "fp32", CPU, [stack("a", FULL, {"torch": "bad ELF"})], "library-missing", "(bad ELF)"),
    ],
)
def test_a_refusal_says_why_and_what_would_help(
    workflow: str, precision: str, device: DeviceInfo, stacks: list[StackInfo], reference: str, words: str
) -> None:
    refusal = choose_stack(workflow, precision, device, stacks)
    assert isinstance(refusal, Refusal)
    assert refusal.reference == reference
    assert words in refusal.reason
    assert refusal.hint


@pytest.mark.parametrize(
    ("device", "libraries", "words"),
    [
        (CPU, FULL | {"modelopt": "0.47"}, None),
        (CPU, FULL | {"pytorch_quantization": "2.1"}, None),
        (CPU, FULL, "no pytorch_quantization and no modelopt"),
        (GPU, FULL | {"modelopt": "0.47", "tensorrt": "10"}, None),
        (GPU, FULL | {"modelopt": "0.47"}, "no tensorrt"),
        (GPU, {k: v for k, v in FULL.items() if k != "onnxruntime"} | {"modelopt": "0", "tensorrt": "10"}, None),
    ],
)
def test_a_stack_needs_one_of_each_group_and_what_its_kind_of_device_needs(
    device: DeviceInfo, libraries: dict[str, str], words: str | None
) -> None:
    answer = choose_stack("pytorch_quantization", "int8", device, [stack("a", libraries)])
    if words is None:
        assert isinstance(answer, StackInfo)
        return
    assert isinstance(answer, Refusal)
    assert (answer.reference, words in answer.reason) == ("library-missing", True)
    assert "pytorch_quantization or modelopt" in answer.hint


def test_a_library_of_a_group_that_cannot_be_imported_is_named_with_the_other() -> None:
    broken = stack("a", FULL, {"modelopt": "no requests"})
    answer = choose_stack("pytorch_quantization", "int8", CPU, [broken])
    assert isinstance(answer, Refusal)
    assert "no pytorch_quantization and modelopt cannot be imported (no requests)" in answer.reason


def test_a_stack_that_could_not_be_probed_runs_nothing_not_even_what_needs_no_library() -> None:
    answer = choose_stack("fake", "fp32", CPU, [StackInfo("broken", "/nowhere/python", "")])
    assert isinstance(answer, Refusal)
    assert "could not be probed" in answer.reason


TRT = {"tensorrt": "11.4.0", "numpy": "2"}
ELEVEN = {"implicit_int8": False, "strong_typing": True, "named_tensors": True}
EIGHT = {"implicit_int8": True, "strong_typing": False, "named_tensors": True}


def trt_stack(name: str, features: dict[str, Any]) -> StackInfo:
    return StackInfo(name, f"/opt/{name}/python", "3.10.1", TRT, {}, features)


@pytest.mark.parametrize(
    ("features", "precision", "options", "source", "words", "hint"),
    [
        (ELEVEN, "int8", {}, "torchvision", "tensorrt 11.4.0", "quantization: explicit"),
        (ELEVEN, "int8", {}, None, "no implicit int8", "quantization: explicit"),
        (EIGHT, "fp16", {"typing": "strong"}, "onnx", "no strongly typed networks", "TensorRT 10"),
        (EIGHT | {"named_tensors": False}, "fp32", {}, "onnx", "no named tensors", "8.5"),
    ],
)
def test_a_feature_that_the_job_needs_and_the_stack_lacks_is_a_refusal_with_the_way_out(
    features: dict[str, Any], precision: str, options: dict[str, Any], source: str | None, words: str, hint: str
) -> None:
    refusal = choose_stack("onnx_tensorrt", precision, GPU, [trt_stack("new", features)], options, source)
    assert isinstance(refusal, Refusal)
    assert refusal.reference == "feature-missing"
    assert words in refusal.reason
    assert hint in refusal.hint


@pytest.mark.parametrize(
    ("features", "precision", "options", "source"),
    [
        (ELEVEN, "fp16", {}, "torchvision"),
        (ELEVEN, "int8", {"quantization": "explicit"}, "torchvision"),
        (ELEVEN, "int8", {}, "onnx"),
        (EIGHT, "int8", {}, "torchvision"),
        ({}, "int8", {"typing": "strong"}, "torchvision"),
    ],
)
def test_what_a_stack_has_or_was_not_asked_about_is_no_refusal(
    features: dict[str, Any], precision: str, options: dict[str, Any], source: str
) -> None:
    assert isinstance(
        choose_stack("onnx_tensorrt", precision, GPU, [trt_stack("new", features)], options, source), StackInfo
    )


def test_the_first_stack_with_the_feature_is_chosen() -> None:
    stacks = [trt_stack("new", ELEVEN), trt_stack("old", EIGHT)]
    chosen = [choose_stack("onnx_tensorrt", p, GPU, stacks, {}, "torchvision") for p in ("fp16", "int8")]
    assert [isinstance(stack, StackInfo) and stack.name for stack in chosen] == ["new", "old"]


@pytest.mark.parametrize("workflow", ["onnxruntime_cuda", "onnxruntime_trt"])
def test_a_stack_whose_probe_could_not_load_the_provider_is_passed_over(workflow: str) -> None:
    wanted = {"onnxruntime_cuda": "CUDAExecutionProvider", "onnxruntime_trt": "TensorrtExecutionProvider"}[workflow]
    feature = "onnxruntime_providers_loadable"
    cannot = {feature: ["CPUExecutionProvider"], f"{feature}_problems": {wanted: "libnvinfer.so.10: no such file"}}
    can = {feature: ["CPUExecutionProvider", wanted]}
    bad = StackInfo("bad", "/opt/bad/python", "3.11.7", FULL, features=cannot)
    good = StackInfo("good", "/opt/good/python", "3.11.7", FULL, features=can)
    assert choose_stack(workflow, "fp32", GPU, [bad, good]) == good
    refusal = choose_stack(workflow, "fp32", GPU, [bad])
    assert isinstance(refusal, Refusal)
    assert refusal.reference == "library-missing"
    assert f"{wanted} does not load (libnvinfer.so.10: no such file)" in refusal.reason
    assert wanted in refusal.hint


def test_a_probe_that_did_not_ask_says_nothing_against_a_stack() -> None:
    old = StackInfo("old", "/opt/old/python", "3.11.7", FULL, features={"onnxruntime_providers": []})
    assert choose_stack("onnxruntime_cuda", "fp32", GPU, [old]) == old
    without = StackInfo("without", "/opt/p", "3.11.7", {"numpy": "2"}, features={})
    refusal = choose_stack("onnxruntime_cuda", "fp32", GPU, [without])
    assert isinstance(refusal, Refusal)
    assert "no onnxruntime, no onnx" in refusal.reason


def test_a_feature_without_a_reason_is_still_one_that_is_lacking() -> None:
    stack_info = StackInfo("x", "/opt/p", "3.11.7", FULL, features={"onnxruntime_providers_loadable": []})
    refusal = choose_stack("onnxruntime_trt", "fp32", GPU, [stack_info])
    assert isinstance(refusal, Refusal)
    assert "no TensorrtExecutionProvider" in refusal.reason
