# SPDX-License-Identifier: Apache-2.0
"""The papers' sweeps in examples/ hold every cell of the papers, and plan against devices that could run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.broker.register import DeviceEntry
from farm.contract.device import Announcement, DeviceInfo, StackInfo
from farm.report.papers import papers
from farm.report.papers.view import way_of
from farm.sweep import load_sweep
from scheduler.expand import expand
from scheduler.match import Plan, match

LIBRARIES = {
    name: "1"
    for name in (
        "torch", "torchvision", "numpy", "onnx", "onnxruntime", "tensorrt", "torch_tensorrt", "pytorch_quantization",
    )
}  # fmt: skip
FEATURES = {
    "onnxruntime_providers_loadable": ["TensorrtExecutionProvider", "CUDAExecutionProvider"],
    "named_tensors": True,
    "implicit_int8": True,
}


def device(kind: str, libraries: dict[str, str] = LIBRARIES) -> DeviceEntry:
    """A made-up device of a kind, with a stack that has all that the papers use."""
    info = DeviceInfo(f"box-{kind}", f"{kind}-made-up", kind, "box", "Made-up device", {"cores": 8})
    stack = StackInfo("all", "/usr/bin/python3", "3.10.0", libraries, features=FEATURES)
    return DeviceEntry(Announcement(info, [stack], "0.1.0", 1), 1.0, True, "ready", None)


def planned(example: str, *entries: DeviceEntry) -> Plan:
    spec = load_sweep(Path("examples") / f"{example}.yaml")
    return match(spec, expand(spec), entries)


@pytest.mark.parametrize("name", sorted(papers()))
def test_a_papers_sweep_asks_for_every_cell_of_the_paper_and_a_gpu_takes_them_all(name: str) -> None:
    of = papers()[name]
    plan = planned(name, device("gpu"))
    assert plan.refusals == ()
    asked = {(j.model.name, way.tag, b) for j in plan.jobs if (way := way_of(of, j)) for b in j.batches.sizes}
    assert asked == {(model, way.tag, batch) for model in of.models for way in of.ways for batch in of.batches}
    assert all(tuple(j.model.input_shape) == of.input_shape for j in plan.jobs)
    assert {(j.protocol.min_iterations, j.protocol.max_iterations) for j in plan.jobs} == {(50, 50)}
    assert {j.batches.until for j in plan.jobs} == {("out_of_memory",)}


def test_the_quantization_sweep_calibrates_as_the_paper_does_by_every_calibration_batch() -> None:
    plan = planned("quantization-soc", device("gpu"))
    quantised = [j for j in plan.jobs if j.precision == "int8"]
    assert {(j.calibration.method, j.calibration.samples) for j in quantised if j.calibration} == {("entropy", 1024)}
    for way in papers()["quantization-soc"].rivals:
        of_way = [j for j in quantised if j.workflow == way.workflow and j.model.name == "resnet50"]
        assert {j.calibration.batch for j in of_way if j.calibration} == {1, 2, 4, 8, 16, 32, 64, 128}
    assert {j.accuracy.dataset for j in plan.jobs if j.accuracy} == {"imagenet"}
    assert all(j.accuracy for j in plan.jobs)


def test_a_cpu_takes_the_cpu_variant_and_says_what_it_lacks() -> None:
    whole = planned("quantization-soc-cpu", device("cpu"))
    assert whole.refusals == ()
    assert {j.workflow for j in whole.jobs} == {"pytorch", "pytorch_quantization", "onnxruntime_cpu"}
    bare = {name: version for name, version in LIBRARIES.items() if name != "pytorch_quantization"}
    without = planned("quantization-soc-cpu", device("cpu", bare))
    assert {r.job.workflow for r in without.refusals} == {"pytorch_quantization"}
    assert len(without.refusals) + len(without.jobs) == len(whole.jobs)
