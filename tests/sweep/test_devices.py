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


def test_a_stack_that_could_not_be_probed_runs_nothing_not_even_what_needs_no_library() -> None:
    answer = choose_stack("fake", "fp32", CPU, [StackInfo("broken", "/nowhere/python", "")])
    assert isinstance(answer, Refusal)
    assert "could not be probed" in answer.reason


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
