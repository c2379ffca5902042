# SPDX-License-Identifier: Apache-2.0
"""Runs under a profiler: processes of their own after each point, which take nothing from what was measured."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from farm.broker.jobs import Claim, JobStore
from farm.contract.canonical import canonical_json
from farm.contract.codec import from_json
from farm.contract.job import JobSpec
from farm.contract.layers import LAYERS_ARTIFACT, TIMELINE_ARTIFACT, LayerTable
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.explain import Profiled, total_of
from farm.report.profiles import pictures_in
from tests.workers.support import fake_job
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.execute import execute

Execute = Callable[..., list[Record]]


@pytest.fixture
def records(bench: Bench, jobs: JobStore, claim: Callable[[JobSpec], Claim]) -> Execute:
    """Execute a fake job that asks for its layers; return the records of its points."""

    def do(sizes: tuple[int, ...] = (1,), **options: Any) -> list[Record]:
        job = replace(fake_job("job", bench.device.device_id, sizes, **options), profile=("layers",))
        execute(bench, jobs, claim(job), boottime())
        return [bench.store.records.read(run_id) for run_id in job.run_ids()]

    return do


def test_each_point_has_the_table_of_a_process_of_its_own(records: Execute, bench: Bench) -> None:
    found = records((1, 2))
    assert len(found) == 2
    for record in found:
        assert record.outcome is Outcome.OK
        (ref,) = [each for each in record.artifacts if each.kind == LAYERS_ARTIFACT]
        table = from_json(LayerTable, json.loads(bench.store.blobs.read(ref.sha256)))
        assert [layer.name for layer in table.layers] == ["/first/Nothing", "/second/Nothing"]
        told = record.provenance["profiles"]["layers"]
        assert (told["outcome"], told["rows"], told["source"]) == ("ok", 2, "fake")
        assert told["started_at"] > record.started_at
        assert "profile" not in [stage.name for stage in record.stages]
        assert total_of(Profiled(record, table)).median_ms is not None
        assert record.metrics["sample_count"] == 12


def test_a_profile_that_fails_is_told_and_the_point_stays_ok(records: Execute) -> None:
    (record,) = records(behaviour="segfault", stage="profile")
    assert record.outcome is Outcome.OK
    assert record.metrics["latency_ms"] is not None
    told = record.provenance["profiles"]["layers"]
    assert told["outcome"] == "crashed"
    assert told["failure"]["message"]
    assert LAYERS_ARTIFACT not in [each.kind for each in record.artifacts]


def test_a_point_that_is_not_ok_is_not_profiled(records: Execute) -> None:
    (record,) = records(behaviour="raise")
    assert record.outcome is Outcome.FAILED
    assert "profiles" not in record.provenance


def test_without_a_profile_in_the_job_nothing_is_different(
    bench: Bench, jobs: JobStore, claim: Callable[[JobSpec], Claim]
) -> None:
    job = fake_job("job", bench.device.device_id, (1,))
    execute(bench, jobs, claim(job), boottime())
    assert "profiles" not in bench.store.records.read(job.run_id(1)).provenance


def test_a_timeline_has_stages_spans_and_telemetry_on_one_axis(
    bench: Bench, jobs: JobStore, claim: Callable[[JobSpec], Claim]
) -> None:
    job = replace(fake_job("job", bench.device.device_id, (1,)), profile=("layers", "timeline"))
    execute(bench, jobs, claim(job), boottime())
    record = bench.store.records.read(job.run_id(1))
    kinds = [each.kind for each in record.artifacts]
    assert {LAYERS_ARTIFACT, TIMELINE_ARTIFACT} <= set(kinds)
    (ref,) = [each for each in record.artifacts if each.kind == TIMELINE_ARTIFACT]
    trace = json.loads(gzip.decompress(bench.store.blobs.read(ref.sha256)))
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    stages = {event["name"]: event for event in spans if event["pid"] == 1}
    inferences = [event for event in spans if event["name"] == "infer"]
    assert len(inferences) == 5
    profile = stages["profile"]
    assert all(profile["ts"] <= e["ts"] <= profile["ts"] + profile["dur"] for e in inferences)
    told = record.provenance["profiles"]["timeline"]
    assert told["outcome"] == "ok"
    assert not {"stages", "host", "device", "counters"} & set(told), "the picture is a file of its own"
    still = pictures_in(bench.store)(record)
    assert still is not None
    assert [name for name, *_ in still["stages"]] == [event["name"] for event in spans if event["pid"] == 1]
    assert len(canonical_json(told)) < 1000
