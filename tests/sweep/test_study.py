# SPDX-License-Identifier: Apache-2.0
"""`study: pipeline` in a sweep: what it means, what does not go with it, and that other sweeps stay as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from farm.contract.codec import from_json, to_json
from farm.contract.job import JobSpec
from farm.contract.pipeline import ArrivalSpec, PipelineSpec
from farm.contract.protocols import stage_limits_s
from farm.sweep import SweepSpec, load_sweep, parse_sweep
from scheduler.expand import jobs_at
from scheduler.predict import predicted_s
from scheduler.records import cancelled_records
from tests.sweep.conftest import Faults, sweep

ROOT = Path(__file__).resolve().parents[2]


def parse(**keys: Any) -> SweepSpec:
    return parse_sweep(yaml.safe_dump(sweep(**keys)), "t")


def job_of(spec: SweepSpec) -> JobSpec:
    (job,) = jobs_at(spec, ["dev:box"], {})
    return job


def test_it_alone_means_the_defaults_and_every_key_has_its_place() -> None:
    assert parse(study="pipeline").pipeline == PipelineSpec()
    made = parse(
        study="pipeline",
        pipeline={
            "count": 9,
            "size": [640, 480],
            "quality": 75,
            "mode": "overlapped",
            "workers": {"decode": 4, "preprocess": 2},
            "queue_depth": 3,
            "duration_s": 1.5,
            "arrival": {"of_capacity": [0.8, 0.5], "per_s": 40.0, "process": "uniform", "max_wait_ms": 2.0},
        },
    ).pipeline
    assert made == PipelineSpec(
        count=9, width=640, height=480, quality=75, mode="overlapped", decode_workers=4, preprocess_workers=2,
        queue_depth=3, duration_s=1.5, arrival=ArrivalSpec((0.5, 0.8), (40.0,), "uniform", 2.0, 5.0),
    )  # fmt: skip
    assert parse(study="pipeline", pipeline={"images": "/data/photos/"}).pipeline == PipelineSpec("/data/photos")


def test_ids_of_sweeps_without_it_do_not_know_of_it_and_those_with_it_differ() -> None:
    plain, study = parse(), parse(study="pipeline")
    assert plain.sweep_id == "tiny-a7beaf85004c"
    assert len({plain.sweep_id, study.sweep_id, parse(study="pipeline", pipeline={"count": 9}).sweep_id}) == 3
    assert parse(study="pipeline", pipeline={"count": 64}).sweep_id == study.sweep_id, "a default that is spelt out"
    assert SweepSpec.from_document(study.document()).pipeline == study.pipeline


def test_a_job_carries_it_through_json_with_run_ids_of_its_own() -> None:
    spec = parse(study="pipeline", batch=[1, 8], pipeline={"arrival": {"of_capacity": 0.5}})
    job = job_of(spec)
    assert from_json(JobSpec, to_json(job)) == job
    assert job.run_ids() == (job.run_id(1), job.run_id(8))
    assert set(job.run_ids()).isdisjoint(job_of(parse(batch=[1, 8])).run_ids())
    assert stage_limits_s(job)["pipeline"] > 3 * 15.0
    assert stage_limits_s(job)["images"] == 1800.0
    assert {"pipeline", "images"}.isdisjoint(stage_limits_s(job_of(parse())))
    assert 2 * 15 < predicted_s(job) < 2 * 15 + 60
    assert [record.point for record in cancelled_records(job, 1, "2026-03-01")] == ["pipeline", "pipeline"]


def study(**pipeline: Any) -> dict[str, Any]:
    return {"study": "pipeline", "pipeline": pipeline}


MISTAKES: list[tuple[str, str, dict[str, Any]]] = [
    ("$.study", "did you mean 'pipeline'?", {"study": "pipelin"}),
    ("$.pipeline", "set `study: pipeline`", {"pipeline": {"count": 3}}),
    ("$.pipeline.coutn", "did you mean 'count'?", study(coutn=3)),
    ("$.pipeline.workers.decod", "did you mean 'decode'?", study(workers={"decod": 3})),
    ("$.pipeline.workers.decode", "at least 1", study(workers={"decode": 0})),
    ("$.pipeline.images", "absolute folder", study(images="photos")),
    ("$.pipeline.size", "leave it out", study(images="/photos", size=[100, 100])),
    ("$.pipeline.quality", "at most 100", study(quality=101)),
    ("$.pipeline.mode", "allowed: serial, overlapped, both", study(mode="pipelined")),
    ("$.pipeline.queue_depth", "at least 1", study(queue_depth=0)),
    ("$.pipeline.queue_depth", "mode: both", study(mode="serial", queue_depth=2)),
    ("$.pipeline.count", "lower it or `size`", study(count=10_000, size=[1000, 500])),
    ("$.pipeline.arrival.of_capacity", "at most 32", study(arrival={"of_capacity": [n / 50 for n in range(1, 40)]})),
    ("$.pipeline.arrival", "mode: both", study(mode="serial", arrival={"per_s": 5.0})),
    ("$.pipeline.arrival", "names no rate", study(arrival={"process": "poisson"})),
    ("$.pipeline.arrival.process", "allowed: poisson, uniform", study(arrival={"per_s": 5.0, "process": "bursts"})),
    ("$.pipeline.arrival.of_capacity[0]", "more than 0", study(arrival={"of_capacity": [0.0]})),
    ("$.pipeline.arrival.per_s[0]", "too many", study(arrival={"per_s": [1e6], "duration_s": 60.0})),
    ("$.accuracy", "a sweep of its own", {
        "study": "pipeline", "accuracy": {"dataset": "digits"}, "weights": "digits:0",
    }),
    ("$.profile", "a sweep of its own", {"study": "pipeline", "profile": ["layers"]}),
    ("$.concurrency", "a sweep of its own", {"study": "pipeline", "concurrency": {"streams": [1, 2]}}),
    ("$.models[0]", "takes tokens", {"study": "pipeline", "models": ["bert-tiny"]}),
    ("$.protocol.scenario", "use the scenario `single`", {
        "study": "pipeline", "protocol": {"base": "quick", "scenario": "streams", "streams": 2},
    }),
    ("$.models[0].input", "[3, H, W]", {"study": "pipeline", "models": [{"name": "resnet18", "input": [1, 64, 64]}]}),
]  # fmt: skip


@pytest.mark.parametrize(("place", "said", "keys"), MISTAKES, ids=[f"{p} {s}" for p, s, _ in MISTAKES])
def test_a_mistake_is_named_with_its_place_and_the_way_out(
    faults: Faults, place: str, said: str, keys: dict[str, Any]
) -> None:
    found = faults(**keys)
    assert len(found) == 1, found
    assert found[0].startswith(f"sweep.yaml: {place} ")
    assert said in found[0]


@pytest.mark.parametrize("name", ["examples/pipeline.yaml", "benchmarks/gpu/sweeps/pipeline.yaml"])
def test_the_sweeps_that_are_shipped_are_studies(name: str) -> None:
    spec = load_sweep(ROOT / name)
    assert spec.pipeline is not None and spec.pipeline.arrival is not None
