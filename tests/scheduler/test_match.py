# SPDX-License-Identifier: Apache-2.0
"""Cases meet devices: a job or a refusal for each, whatever the order in which devices are listed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from farm.broker.register import DeviceEntry
from farm.contract.job import ModelSpec
from farm.sweep import SweepSpec
from scheduler.expand import expand, jobs_at
from scheduler.match import Plan, match
from tests.scheduler.conftest import FULL, announcement, entry, make_spec


def plan(spec: SweepSpec, *entries: DeviceEntry) -> Plan:
    return match(spec, expand(spec), entries)


def keys(made: Plan) -> list[str]:
    return [job.target.key for job in made.jobs]


def test_without_devices_every_class_gets_each_case_once_and_its_devices_share() -> None:
    made = plan(make_spec(precisions="[fp32, fp16]"), entry("a"), entry("b"), entry("g", "gpu-y", kind="gpu"))
    assert keys(made) == ["cls:cpu-x", "cls:gpu-y"] * 2
    assert made.refusals == ()
    assert made.places == ("cls:cpu-x", "cls:gpu-y")


def test_a_device_named_by_id_gets_its_own_job() -> None:
    made = plan(make_spec(devices="[cpu-x, {id: b}]"), entry("a"), entry("b"))
    assert keys(made) == ["cls:cpu-x", "dev:b"]
    assert len({job.job_id for job in made.jobs}) == 2


def test_two_selectors_of_one_class_make_one_job() -> None:
    assert keys(plan(make_spec(devices="[cpu-x, {kind: cpu}, {cores: '>=2'}]"), entry("a"))) == ["cls:cpu-x"]


def test_a_job_for_a_part_of_a_class_is_bound_to_a_device_of_that_part_and_keeps_its_id() -> None:
    spec = make_spec(devices="[{cores: '>=8'}]", models="[resnet18, resnet34, resnet50, alexnet, vgg11, vgg13]")
    whole = plan(spec, entry("big1", cores=8), entry("big2", cores=8))
    part = plan(spec, entry("big1", cores=8), entry("big2", cores=8), entry("small", cores=2))
    assert set(keys(whole)) == {"cls:cpu-x"}
    assert set(keys(part)) == {"dev:big1", "dev:big2"}, "the matching devices share the work"
    assert [job.job_id for job in part.jobs] == [job.job_id for job in whole.jobs]
    assert part.narrowed == {job.job_id: job.target.device_id for job in part.jobs}


def test_a_job_goes_only_to_devices_whose_stacks_can_run_it() -> None:
    spec = make_spec(workflows="[pytorch]")
    made = plan(spec, entry("able"), entry("bare", libraries={}))
    assert keys(made) == ["dev:able"]
    offline = plan(spec, entry("able"), entry("away", online=False), entry("bare", libraries={}))
    assert keys(offline) == ["dev:able"], "of the able ones, one that works is preferred"


def test_what_no_stack_can_run_is_refused_with_its_job_its_reason_and_a_remedy() -> None:
    made = plan(make_spec(workflows="[pytorch]"), entry("bare", libraries={"torch": "2"}))
    (refused,) = made.refusals
    assert made.jobs == ()
    assert "no torchvision" in refused.reason
    assert refused.hint
    assert refused.job.target.key == "cls:cpu-x"
    assert refused.job.workflow == "pytorch"


def test_a_precision_or_source_that_the_workflow_lacks_is_refused_not_forgotten() -> None:
    spec = make_spec(workflows="[pytorch, fake]", precisions="[fp32, fp16]")
    onnx = ModelSpec("mine", "onnx", (3, 8, 8), "sha256:" + "0" * 64, "0" * 64)
    made = plan(spec.model_copy(update={"models": (*spec.models, onnx)}), entry("a"))
    told = {refused.case.name: refused.refusal.reference for refused in made.refusals}
    assert told == {
        "resnet18/pytorch/fp16": "precision-unsupported",
        "mine/pytorch/fp32": "source-unsupported",
        "mine/pytorch/fp16": "source-unsupported",
    }
    assert len(made.jobs) == 5


def test_a_calibration_method_that_the_workflow_lacks_is_refused_and_others_run() -> None:
    spec = make_spec(
        workflows="[onnxruntime_cpu, pytorch_quantization]", precisions="[int8]", calibration="{method: [minmax, mse]}"
    )
    made = plan(spec, entry("a", libraries=FULL | {"modelopt": "0.47"}))
    (refused,) = made.refusals
    assert (refused.case.workflow, refused.refusal.reference) == ("onnxruntime_cpu", "calibration-unsupported")
    assert "entropy, percentile" in refused.hint
    assert len(made.jobs) == 3


def test_a_selector_that_matches_nothing_is_refused_and_names_the_known_devices() -> None:
    spec = make_spec(devices="[gpu-z, {id: nobody}, {kind: gpu, sm: '>=8.0'}, {cores: '>=99'}]")
    made = plan(spec, entry("a"), entry("b"))
    assert made.jobs == ()
    assert [refused.target.key for refused in made.refusals] == [
        "cls:gpu-z",
        "dev:nobody",
        "cls:kind-gpu-sm-8-0",
        "cls:cores-99",
    ]
    assert all("a (class cpu-x), b (class cpu-x)" in refused.reason for refused in made.refusals)
    assert "no device states sm" in made.refusals[2].reason
    assert "cores" in made.refusals[2].hint


def test_devices_that_do_not_work_now_still_match_and_are_noted() -> None:
    made = plan(make_spec(), entry("a", state="drained"), entry("b", "cpu-y", online=False), entry("c", "cpu-y"))
    assert keys(made) == ["cls:cpu-x", "cls:cpu-y"]
    assert made.notes == (
        "a is drained; jobs for cls:cpu-x wait",
        "b is offline; others of its class work on",
    )


DEVICES = st.builds(
    entry,
    st.sampled_from(["a", "b", "c", "d", "e", "f"]),
    st.sampled_from(["cpu-x", "cpu-y", "gpu-z"]),
    online=st.booleans(),
    state=st.sampled_from(["ready", "drained"]),
    libraries=st.sampled_from([None, {}]),
    cores=st.sampled_from([2, 8]),
)
FLEETS = st.lists(DEVICES, min_size=1, max_size=6, unique_by=lambda e: e.device_id)


@given(FLEETS, st.randoms())
def test_the_order_of_devices_changes_nothing(fleet: list[DeviceEntry], rng: object) -> None:
    spec = make_spec(workflows="[pytorch, fake]", devices="[{cores: '>=4'}, cpu-x, {id: a}, gpu-q]")
    mixed = list(fleet)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert plan(spec, *mixed) == plan(spec, *fleet)


@given(FLEETS)
def test_every_case_ends_in_exactly_one_job_or_refusal_at_each_place(fleet: list[DeviceEntry]) -> None:
    spec = make_spec(workflows="[pytorch, fake]", precisions="[fp32, fp16]")
    made = plan(spec, *fleet)
    seen = Counter([job.job_id for job in made.jobs] + [refused.job.job_id for refused in made.refusals])
    assert set(seen.values()) == {1}
    assert len(seen) == 4 * len({e.announcement.device.device_class for e in fleet})


@given(FLEETS)
def test_the_jobs_can_be_made_again_from_what_the_store_keeps(fleet: list[DeviceEntry]) -> None:
    spec = make_spec(workflows="[pytorch, fake]", devices="[{cores: '>=4'}, cpu-x, {id: a}]")
    made = plan(spec, *fleet)
    again = {job.job_id: job for job in jobs_at(spec, made.places, made.narrowed)}
    assert all(again[job.job_id] == job for job in made.jobs)
    unmatched = {refused.job.job_id for refused in made.refusals if refused.refusal.reference == "no-such-device"}
    assert set(again) == {job.job_id for job in made.jobs} | {r.job.job_id for r in made.refusals} - unmatched


def test_the_quickstart_gives_nine_jobs_on_one_cpu() -> None:
    from farm.sweep import load_sweep

    made = plan(load_sweep(Path("examples/quickstart.yaml")), entry("a"))
    assert (len(made.jobs), len(made.refusals)) == (9, 0)


def test_a_feature_that_no_stack_has_is_a_refusal_at_submit_and_the_way_out_is_a_job() -> None:
    told = announcement("g", "gpu-y", kind="gpu", libraries={"tensorrt": "11.4.0", "numpy": "2"})
    stack = replace(told.stacks[0], features={"implicit_int8": False, "strong_typing": True, "named_tensors": True})
    device = DeviceEntry(replace(told, stacks=[stack]), 1.0, True, "ready", None)
    spec = make_spec(
        workflows="[onnx_tensorrt, {name: onnx_tensorrt, quantization: explicit}]", precisions="[fp16, int8]"
    )
    made = plan(spec, device)
    (refused,) = made.refusals
    assert (refused.case.precision, refused.case.options) == ("int8", {})
    assert refused.refusal.reference == "feature-missing"
    assert "tensorrt 11.4.0" in refused.reason
    assert "no implicit int8" in refused.reason
    assert "quantization: explicit" in refused.hint
    assert sorted((job.precision, bool(job.options)) for job in made.jobs) == [
        ("fp16", False),
        ("fp16", True),
        ("int8", True),
    ]


def test_a_scenario_that_a_workflow_has_not_is_refused_with_those_that_have_it() -> None:
    spec = make_spec(workflows="[torch_tensorrt]", protocol="{base: quick, scenario: streams, streams: 2}")
    told = announcement("g", "gpu-y", kind="gpu", libraries=FULL | {"torch_tensorrt": "2.2.0"})
    made = match(spec, expand(spec), [replace(entry("g", "gpu-y", kind="gpu"), announcement=told)])
    (refused,) = made.refusals
    assert refused.refusal.reference == "scenario-unsupported"
    assert "torch_tensorrt has no scenario 'streams', it has: single, offline" in refused.reason
    assert "onnx_tensorrt" in refused.hint


def test_cuda_graphs_are_refused_on_cpus_and_taken_on_gpus() -> None:
    spec = make_spec(workflows="[{name: pytorch, cuda_graph: true}]")
    made = plan(spec, entry("a"), entry("g", "gpu-y", kind="gpu"))
    assert keys(made) == ["cls:gpu-y"]
    (refused,) = made.refusals
    assert (refused.refusal.reference, refused.target.key) == ("option-unsupported", "cls:cpu-x")
    assert keys(plan(make_spec(workflows="[{name: pytorch, cuda_graph: false}]"), entry("a"))) == ["cls:cpu-x"]
