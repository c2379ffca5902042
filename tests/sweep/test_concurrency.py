# SPDX-License-Identifier: Apache-2.0
"""A study of requests in flight in one sweep: its jobs, what is refused and why, and that older ids stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from farm.broker.register import DeviceEntry
from farm.contract.catalogue import WORKFLOWS
from farm.contract.concurrency import REFERENCE, SWITCHES
from farm.contract.fit import unfit
from farm.contract.job import JobSpec, Protocol
from farm.contract.protocols import PROTOCOLS
from farm.sweep import SweepSpec, load_sweep, parse_sweep
from scheduler.expand import expand, jobs_at
from scheduler.match import match
from tests.docs.tables import ROOT
from tests.scheduler.conftest import entry
from tests.sweep.conftest import Faults, sweep

#: Sweeps that speak of no study, with what they had before there were any (the quickstart: when its protocol last
#: changed): id, first and last job at one place.
OLDER = {
    "examples/quickstart.yaml": ("quickstart-6a30326bab3f", "13845a97505f661a", "709d4e8038db15ae"),
    "examples/gpu-rebuilds.yaml": ("gpu-rebuilds-df8e9bdf1edd", "5d92381de5ca00be", "8f6653ee7df639cc"),
    "benchmarks/gpu/sweeps/streams-4.yaml": ("h200-streams-4-97e2d3625e74", "2ecb7fae67cd1e0c", "721e7281ce24cf29"),
}


SIXTEEN = list(range(1, 17))


def study(workflows: list[Any], protocol: Any = "quick", **axes: Any) -> SweepSpec:
    document = sweep(workflows=workflows, protocol=protocol, concurrency=axes)
    return parse_sweep(yaml.safe_dump(document, sort_keys=False), "t")


def jobs(spec: SweepSpec) -> list[JobSpec]:
    return list(jobs_at(spec, ["cls:x"], {}))


def lanes(spec: SweepSpec, workflow: str) -> list[tuple[Any, ...]]:
    """Streams, contexts, sessions, threads and inter-op threads of each of a workflow's jobs."""
    found = [job.protocol for job in jobs(spec) if job.workflow == workflow]
    return [(p.streams, p.contexts, p.sessions, p.threads, p.inter_threads) for p in found]


@pytest.mark.parametrize("name", OLDER)
def test_sweeps_that_speak_of_no_study_keep_their_ids(name: str) -> None:
    spec = load_sweep(ROOT / name)
    ids = [job.job_id for job in jobs(spec)]
    assert (spec.sweep_id, ids[0], ids[-1]) == OLDER[name]


def test_each_workflow_varies_the_axes_that_it_has() -> None:
    names = ["onnx_tensorrt", "pytorch", "openvino"]
    spec = study(names, streams=[1, 2], contexts=[2, 4], sessions=[1, 2])
    assert lanes(spec, "onnx_tensorrt") == [(s, c, None, None, None) for c in (2, 4) for s in (1, 2)]
    assert lanes(spec, "pytorch") == [(s, None, m, None, None) for m in (1, 2) for s in (1, 2)]
    assert lanes(spec, "openvino") == [(1, None, None, None, None), (2, None, None, None, None)]
    assert {job.protocol.scenario for job in jobs(spec)} == {"streams"}


def test_without_streams_each_context_or_session_has_one() -> None:
    spec = study(["onnx_tensorrt", "onnxruntime_cpu", "openvino"], contexts=[1, 4], sessions=[2])
    assert [way[:3] for way in lanes(spec, "onnx_tensorrt")] == [(1, 1, None), (4, 4, None)]
    assert [way[:3] for way in lanes(spec, "onnxruntime_cpu")] == [(2, None, 2)]
    assert [way[0] for way in lanes(spec, "openvino")] == [1, 4, 2], "as many as the others have"


def test_threads_are_an_axis_of_every_workflow_and_inter_op_threads_of_some() -> None:
    spec = study(["onnxruntime_cpu", "pytorch"], streams=[1], threads={"intra": [1, 2], "inter": [1, 2]})
    assert [way[3:] for way in lanes(spec, "onnxruntime_cpu")] == [(1, None), (1, 2), (2, None), (2, 2)]
    assert [way[3:] for way in lanes(spec, "pytorch")] == [(1, None), (2, None)]


def test_a_job_of_a_study_has_the_protocol_that_a_sweep_of_its_own_would_have() -> None:
    (job,) = jobs(study(["fake"], {"base": "quick", "min_s": 1}, streams=2, contexts=4))
    alone = sweep(protocol={"base": "quick", "min_s": 1, "scenario": "streams", "streams": 2, "contexts": 4})
    assert job.protocol == parse_sweep(yaml.safe_dump(alone), "t").protocol
    assert job.protocol.in_flight == 4
    assert job.name == "resnet18/fake/fp32/streams-2-contexts-4"


def test_a_study_has_ids_of_its_own_that_stay() -> None:
    spec = study(["fake"], streams=[1, 2])
    again = SweepSpec.from_document(spec.document())
    assert [job.job_id for job in jobs(again)] == [job.job_id for job in jobs(spec)]
    assert len({job.job_id for job in jobs(spec)}) == 2
    others = (study(["fake"], streams=[1, 2, 4]), study(["fake"], streams=[2, 1]), study(["fake"], contexts=[1, 2]))
    assert len({each.sweep_id for each in (spec, *others)}) == 4


@pytest.mark.parametrize(
    ("place", "words", "keys"),
    [
        ("$.concurrency", "must list", {"concurrency": {}}),
        ("$.concurrency.strems", "did you mean 'streams'?", {"concurrency": {"strems": [1]}}),
        ("$.concurrency.threads.intre", "did you mean 'intra'?", {"concurrency": {"threads": {"intre": [1]}}}),
        ("$.concurrency.streams[0]", "at least 1", {"concurrency": {"streams": [0]}}),
        ("$.concurrency.streams[1]", "at most 64", {"concurrency": {"streams": [1, 65]}}),
        ("$.concurrency.streams", "there twice", {"concurrency": {"streams": [2, 2]}}),
        ("$.concurrency.contexts", "these do: onnx_ten", {"workflows": ["pytorch"], "concurrency": {"contexts": [2]}}),
        ("$.concurrency.sessions", "these do: pytorch", {"workflows": ["openvino"], "concurrency": {"sessions": [2]}}),
        (
            "$.concurrency.threads.inter", "these do: onnxruntime_cpu",
            {"workflows": ["pytorch"], "concurrency": {"streams": [1], "threads": {"inter": [2]}}},
        ),
        ("$.concurrency", "several requests at once", {"workflows": ["torch_tensorrt"], "concurrency": {"streams": 2}}),
        (
            "$.protocol.streams", "leave one of the two out",
            {"protocol": {"base": "quick", "scenario": "streams", "streams": 2}, "concurrency": {"streams": [1]}},
        ),
        (
            "$.protocol.threads", "leave one of the two out",
            {"protocol": {"base": "quick", "threads": 2}, "concurrency": {"threads": {"intra": [1]}}},
        ),
        ("$.protocol.scenario", "leave one", {"protocol": {"base": "quick", "scenario": "offline"},
                                              "concurrency": {"streams": [1]}}),
        ("$.protocol.contexts", "need `scenario: streams`", {"protocol": {"base": "quick", "contexts": 2}}),
        (
            "$.protocol.contexts", "1 of 2 streams would stay idle",
            {"protocol": {"base": "quick", "scenario": "streams", "streams": 2, "contexts": 1}},
        ),
        ("$.concurrency.streams", "at most 16", {"concurrency": {"streams": list(range(1, 18))}}),
        ("$", "describes 131072 jobs", {"concurrency": dict.fromkeys(("streams", "contexts", "sessions"), SIXTEEN)
                                        | {"threads": {"intra": SIXTEEN, "inter": [1, 2]}}}),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_submitted(
    faults: Faults, place: str, words: str, keys: dict[str, Any]
) -> None:
    found = [problem for problem in faults(**keys) if f"{place} (" in problem or f"{place}: " in problem]
    assert any(words in problem for problem in found), faults(**keys)


def test_threads_of_the_protocol_hold_for_a_study_that_does_not_vary_them() -> None:
    (job,) = jobs(study(["pytorch"], {"base": "quick", "threads": 3}, streams=[2]))
    assert (job.protocol.threads, job.protocol.streams) == (3, 2)


def gpu() -> DeviceEntry:
    return entry("box-gpu0", "nvidia-x", kind="gpu", libraries={"tensorrt": "8.6.0", "numpy": "1.26"})


def test_combinations_that_leave_something_idle_are_refused_with_the_reason() -> None:
    spec = study(["fake"], streams=[1, 4], contexts=[1, 2])
    plan = match(spec, expand(spec), [gpu()])
    assert [(j.protocol.streams, j.protocol.contexts) for j in plan.jobs] == [(1, 1), (1, 2)]
    said = {r.job.protocol.contexts: r.refusal for r in plan.refusals}
    assert {refusal.reference for refusal in said.values()} == {REFERENCE}
    assert said[2].reason == "a context runs one request at a time, so 2 of 4 streams would stay idle with contexts 2"
    assert "as many contexts as streams" in said[2].hint
    spec = study(["fake"], streams=[1], sessions=[1, 2])
    (refused,) = match(spec, expand(spec), [gpu()]).refusals
    assert refused.reason == "1 of 2 sessions would stay idle with 1 in flight"


def protocol(**switches: Any) -> Protocol:
    return replace(PROTOCOLS["quick"], scenario="streams", streams=2, **switches)


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_workflow_takes_its_own_switches_and_says_why_it_takes_no_other(name: str, switch: str) -> None:
    info = WORKFLOWS[name]
    for kind in info.device_kinds:
        found = unfit(info, kind, {}, protocol(**{switch: 2}))
        if switch in info.concurrency.get(kind, ()):
            assert found is None
        elif "streams" not in info.scenarios:
            assert found is not None
            assert found.reference == "scenario-unsupported"
        else:
            assert found is not None
            assert found.reference == REFERENCE
            assert found.message.startswith(f"{name} has no ")
            assert f"on a {kind}" in found.message
            assert all(able in found.hint for able in ("fake",))


def test_a_switch_belongs_to_the_kind_of_device_that_has_it() -> None:
    info = WORKFLOWS["pytorch_quantization"]
    assert unfit(info, "gpu", {}, protocol(contexts=2)) is None
    assert unfit(info, "cpu", {}, protocol(contexts=2)) is not None
    assert unfit(info, "cpu", {}, protocol(sessions=2)) is None
    why = unfit(WORKFLOWS["pytorch"], "cpu", {}, protocol(inter_threads=2))
    assert why is not None
    assert "one operator after another" in why.message


def test_one_inter_op_thread_is_what_leaving_it_out_means() -> None:
    one = sweep(protocol={"base": "quick", "inter_threads": 1})
    assert parse_sweep(yaml.safe_dump(one), "t").sweep_id == parse_sweep(yaml.safe_dump(sweep()), "t").sweep_id


@pytest.mark.parametrize("name", ["contexts", "streams", "sessions"])
def test_the_gpus_studies_are_what_they_say(name: str) -> None:
    spec = load_sweep(ROOT / f"benchmarks/gpu/sweeps/concurrency-{name}.yaml")
    found = [job for job in jobs(spec) if unfit(WORKFLOWS[job.workflow], "gpu", job.options, job.protocol) is None]
    assert len(found) == {"contexts": 20, "streams": 4, "sessions": 20}[name]
    assert {job.model.name for job in found} == {"resnet50"}
    for way in {(job.workflow, tuple(job.options)) for job in found}:
        # The report draws over what is in flight: a study of one number in flight would be drawn nowhere.
        flights = {job.protocol.in_flight for job in found if (job.workflow, tuple(job.options)) == way}
        assert flights == {1, 2, 4, 8}, way


def test_the_study_of_the_docs_is_one() -> None:
    text = (ROOT / "docs/concurrency.md").read_text().split("```yaml\n", 1)[1].split("```", 1)[0]
    spec = parse_sweep(yaml.safe_dump(sweep(workflows=None) | yaml.safe_load(text)), "t")
    counts = {name: len(lanes(spec, name)) for name in ("onnx_tensorrt", "onnxruntime_trt", "pytorch")}
    assert counts == {"onnx_tensorrt": 32, "onnxruntime_trt": 16, "pytorch": 16}


def test_the_example_is_sessions_by_threads() -> None:
    spec = load_sweep(ROOT / "examples/concurrency-cpu.yaml")
    found = {(p.streams, p.sessions, p.threads, p.inter_threads) for p in (job.protocol for job in jobs(spec))}
    assert found == {(n, n, intra, inter) for n in (1, 2, 4) for intra in (1, 2) for inter in (None, 2)}
