# SPDX-License-Identifier: Apache-2.0
"""A sweep becomes its cases: all of them, in order, each with an id that depends on nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.contract.job import ModelSpec, Target
from farm.sweep import SweepSpec, load_sweep
from scheduler.expand import Case, expand, job_id, make_job, target_of
from scheduler.predict import predicted_s
from tests.scheduler.conftest import make_spec


def test_the_quickstart_is_nine_jobs_and_27_runs() -> None:
    spec = load_sweep(Path("examples/quickstart.yaml"))
    cases = expand(spec)
    assert len(cases) == 9
    assert len(cases) * len(spec.batches.sizes) == 27
    assert not [case for case in cases if (case.workflow, case.precision) == ("pytorch", "int8")]


def test_cases_come_by_model_then_workflow_then_precision() -> None:
    spec = make_spec(
        models="[resnet50, resnet18]",
        workflows="[onnxruntime_cpu, pytorch]",
        precisions="[int8, fp32]",
        calibration="{method: [minmax, entropy]}",
        exclude="[{model: resnet18, workflow: pytorch}]",
    )
    assert [(c.name, c.calibration and c.calibration.method) for c in expand(spec)] == [
        ("resnet50/onnxruntime_cpu/int8", "minmax"),
        ("resnet50/onnxruntime_cpu/int8", "entropy"),
        ("resnet50/onnxruntime_cpu/fp32", None),
        ("resnet50/pytorch/int8", "minmax"),
        ("resnet50/pytorch/int8", "entropy"),
        ("resnet50/pytorch/fp32", None),
        ("resnet18/onnxruntime_cpu/int8", "minmax"),
        ("resnet18/onnxruntime_cpu/int8", "entropy"),
        ("resnet18/onnxruntime_cpu/fp32", None),
    ]


def test_each_rebuild_is_a_job_of_a_workflow_that_builds_engines() -> None:
    spec = make_spec(
        models="[resnet18]",
        workflows="[onnx_tensorrt, pytorch]",
        precisions="[fp32, int8]",
        rebuilds="{count: 2, timing_cache: shared}",
    )
    cases = expand(spec)
    assert [(c.name, c.rebuild and (c.rebuild.index, c.rebuild.count, c.rebuild.timing_cache)) for c in cases] == [
        ("resnet18/onnx_tensorrt/fp32", (0, 2, "shared")),
        ("resnet18/onnx_tensorrt/fp32", (1, 2, "shared")),
        ("resnet18/onnx_tensorrt/int8", (0, 2, "shared")),
        ("resnet18/onnx_tensorrt/int8", (1, 2, "shared")),
        ("resnet18/pytorch/fp32", None),
        ("resnet18/pytorch/int8", None),
    ]
    jobs = [make_job(spec, case, "cls:x", Target(device_class="x")) for case in cases]
    assert len({job.job_id for job in jobs}) == 6
    assert [job.name for job in jobs][:2] == [
        "resnet18/onnx_tensorrt/fp32/build-1-of-2",
        "resnet18/onnx_tensorrt/fp32/build-2-of-2",
    ]
    assert jobs[-1].name == "resnet18/pytorch/int8"


def test_a_job_without_rebuilds_has_the_id_that_it_always_had() -> None:
    case = Case(ModelSpec("resnet18"), "pytorch", "fp32")
    assert job_id("tiny-0123456789ab", case, "cls:x") == "a5e28a9d2e9e6d1e"


# Values that differ from the defaults: an option spelled out as its default is the same workflow.
options = st.fixed_dictionaries({}, optional={"latency_ms": st.floats(1.5, 9), "from_batch": st.integers(2, 9)})


@st.composite
def specs(draw: st.DrawFn) -> SweepSpec:
    models = draw(st.lists(st.sampled_from(["resnet18", "resnet50", "alexnet", "vgg11"]), min_size=1, unique=True))
    workflows = draw(st.lists(options, min_size=1, max_size=3, unique_by=lambda o: tuple(sorted(o.items()))))
    precisions = draw(st.lists(st.sampled_from(["fp32", "fp16", "int8"]), min_size=1, unique=True))
    named = [f"{{name: fake{''.join(f', {k}: {v!r}' for k, v in chosen.items())}}}" for chosen in workflows]
    return make_spec(
        models=f"[{', '.join(models)}]",
        workflows=f"[{', '.join(named)}]",
        precisions=f"[{', '.join(precisions)}]",
        seed=str(draw(st.integers(0, 3))),
    )


@given(specs())
def test_ids_are_deterministic_and_distinct(spec: SweepSpec) -> None:
    cases = expand(spec)
    assert len(cases) == len(spec.models) * len(spec.workflows) * len(spec.precisions)
    ids = [job_id(spec.sweep_id, case, place) for case in cases for place in ("cls:a", "cls:b", "dev:a")]
    assert len(set(ids)) == len(ids)
    stored = SweepSpec.from_document(spec.document())
    again = [job_id(stored.sweep_id, case, place) for case in expand(stored) for place in ("cls:a", "cls:b", "dev:a")]
    assert again == ids


def test_a_job_carries_its_whole_case_and_a_narrower_target_keeps_the_id() -> None:
    spec = make_spec(precisions="[int8]", workflows="[{name: fake, latency_ms: 3}]", seed="4")
    (case,) = expand(spec)
    job = make_job(spec, case, "cls:x", Target(device_class="x"))
    assert (job.sweep_id, job.seed, job.options, job.batches.sizes) == (spec.sweep_id, 4, {"latency_ms": 3.0}, (1, 2))
    assert job.calibration == spec.calibrations[0]
    assert make_job(spec, case, "cls:x", Target(device_id="d")).job_id == job.job_id
    assert target_of("cls:x") == job.target
    assert len(job.job_id) == 16


def test_more_work_is_predicted_to_take_longer() -> None:
    def of(**keys: str) -> float:
        spec = make_spec(**keys)
        return predicted_s(make_job(spec, expand(spec)[0], "cls:x", Target(device_class="x")))

    assert 0 < of(batch="1") < of(batch="[1, 2]") < of(batch="[1, 256]")
    assert of(protocol="quick") < of(protocol="nightly") < of(protocol="rigorous")
    assert of(precisions="[fp32]") < of(precisions="[int8]")


@pytest.mark.parametrize("more", ["processes: 2", "warmup_rule: steady", "energy_s: 30", "target_half_width: 0.01"])
def test_every_switch_that_takes_time_is_in_the_prediction(more: str) -> None:
    def of(protocol: str) -> float:
        spec = make_spec(protocol=protocol, batch="[16]")
        return predicted_s(make_job(spec, expand(spec)[0], "cls:x", Target(device_class="x")))

    assert of("{base: quick, warmup_min_s: 0.1}") < of(f"{{base: quick, warmup_min_s: 0.1, {more}}}") < 600


def test_a_warm_up_that_is_never_steady_is_predicted_to_end_at_its_limit() -> None:
    def of(most: int) -> float:
        spec = make_spec(protocol=f"{{base: quick, warmup_rule: steady, warmup_max_s: {most}}}", batch="[1024]")
        return predicted_s(make_job(spec, expand(spec)[0], "cls:x", Target(device_class="x")))

    assert of(40) - of(20) == pytest.approx(20)
