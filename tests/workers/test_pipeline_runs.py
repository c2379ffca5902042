# SPDX-License-Identifier: Apache-2.0
"""A job with a study of the pipeline: each point of its ladder is a run and a record of that kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from farm.broker.jobs import Claim, JobStore
from farm.contract.job import JobSpec
from farm.contract.outcome import Outcome
from farm.contract.pipeline import PipelineSpec
from farm.contract.record import PIPELINE, Record
from farm.explain.pipeline import pipeline_lines, pipeline_of
from farm.store.columns import row_of
from tests.workers.support import fake_job
from workers.daemon.bench import Bench
from workers.daemon.clock import boottime
from workers.daemon.execute import execute
from workers.daemon.ledger import point_of

pytest.importorskip("numpy")
pytest.importorskip("PIL")

SPEC = PipelineSpec(count=4, width=64, height=48, duration_s=0.2)

Run = Callable[..., tuple[JobSpec, str]]


@pytest.fixture
def run(bench: Bench, jobs: JobStore, claim: Callable[[JobSpec], Claim]) -> Run:
    """Execute a job of the fake workflow that is such a study."""

    def do(spec: PipelineSpec = SPEC, sizes: tuple[int, ...] = (1,), **options: Any) -> tuple[JobSpec, str]:
        job = replace(fake_job("job", bench.device.device_id, sizes, **options), pipeline=spec)
        return job, execute(bench, jobs, claim(job), boottime())

    return do


def of(bench: Bench, job: JobSpec, size: int = 1) -> Record:
    return bench.store.records.read(job.run_id(size))


def test_each_point_is_a_study_with_its_record_and_no_latency(run: Run, bench: Bench) -> None:
    job, said = run(sizes=(1, 4))
    first, last = of(bench, job), of(bench, job, 4)
    assert "2 ok" in said
    assert (first.point, first.outcome, first.batch_size, first.ladder_stop) == (PIPELINE, Outcome.OK, 1, None)
    assert (last.point, last.batch_size, last.ladder_stop) == (PIPELINE, 4, "end")
    assert first.job.pipeline == SPEC
    assert "images" in {stage.name for stage in first.prepare_stages}
    assert [stage.name for stage in first.stages] == [
        "start", "load_engine", "first_inference", "warm_up", "pipeline", "finish",
    ]  # fmt: skip
    assert not any(name.startswith(("latency", "throughput", "device_", "gpu_")) for name in first.metrics)
    assert first.metrics["pipeline_serial_per_s"]
    assert {"samples:pipeline_decode", "samples:pipeline_batch"} <= {ref.kind for ref in first.samples}
    assert "pipeline_images" in {ref.kind for ref in first.artifacts}
    found = pipeline_of(first)
    assert found is not None and found.overlapped is not None
    assert found.overlapped.bottleneck.said in pipeline_lines(found)
    row = row_of(last)
    assert (row["point"], row.get("latency_ms")) == ("pipeline", None)
    assert row["pipeline_overlapped_per_s"] == last.metrics["pipeline_overlapped_per_s"]
    assert point_of(last).throughput_per_s == last.metrics["pipeline_overlapped_per_s"], "what `saturated` goes by"


def test_a_folder_that_is_not_there_is_one_failure_for_every_point(run: Run, bench: Bench) -> None:
    job, said = run(PipelineSpec(images="/nowhere/at/all"), sizes=(1, 4))
    assert "2 failed" in said
    for size in (1, 4):
        record = of(bench, job, size)
        assert (record.point, record.outcome) == (PIPELINE, Outcome.FAILED)
        assert record.failure is not None
        assert (record.failure.stage, record.failure.reference) == ("images", "data-unavailable")
        assert "/nowhere/at/all" in record.failure.message and record.failure.hint
        assert pipeline_of(record) is None
