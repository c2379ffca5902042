# SPDX-License-Identifier: Apache-2.0
"""Which records a report speaks of."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from farm.contract.job import Calibration, Target
from farm.contract.outcome import Outcome
from farm.report.select import record_path, select
from tests.report import demo


@dataclass(frozen=True)
class Unread:
    """What a store gives for a file that it can't read."""

    path: Path
    problem: str


def test_every_point_of_a_full_sweep_is_there_once() -> None:
    selection = select(demo.sweep())
    assert (len(selection.points), selection.asked, selection.gaps) == (27, 27, ())
    assert selection.classes == (demo.DEVICE.device_class,)
    assert selection.models(demo.DEVICE.device_class) == ("mobilenet_v2", "resnet18", "resnet50")
    assert selection.batches(demo.DEVICE.device_class) == (1, 4, 16)


def test_the_reference_comes_first_and_precisions_from_wide_to_narrow() -> None:
    labels = [s.label for s in select(demo.sweep()).series(demo.DEVICE.device_class, "resnet18")]
    assert labels == ["pytorch fp32", "onnxruntime_cpu fp32", "onnxruntime_cpu int8"]


def test_pytorch_comes_first_in_all_its_precisions() -> None:
    ways = [("onnxruntime_cpu", "fp32"), ("pytorch", "bf16"), ("openvino", "int8"), ("pytorch", "fp32")]
    labels = [s.label for s in select([demo.ok(demo.job(way=w), 1) for w in ways]).series()]
    assert labels == ["pytorch fp32", "pytorch bf16", "onnxruntime_cpu fp32", "openvino int8"]


def test_the_order_of_the_input_does_not_matter() -> None:
    records = demo.rough_sweep()
    expected = select(records)
    for seed in range(5):
        shuffled = random.Random(seed).sample(records, len(records))
        assert select(shuffled) == expected


def test_the_latest_generation_of_each_point_wins() -> None:
    first = demo.job()
    again = replace(first, generation=1)
    selection = select([demo.ok(first, 1), demo.ok(first, 4), demo.ok(first, 16), demo.ok(again, 4)])
    assert [(p.batch, p.record.job.generation) for p in selection.points] == [(1, 0), (4, 1), (16, 0)]
    assert selection.superseded == 1


def test_a_job_that_ran_when_retried_is_no_longer_refused() -> None:
    first = demo.job()
    refused = demo.bad(first, None, Outcome.UNSUPPORTED, "no")
    again = replace(first, generation=1)
    selection = select([refused, *(demo.ok(again, b) for b in demo.SIZES)])
    assert [p.batch for p in selection.points] == [1, 4, 16]
    assert (selection.superseded, selection.asked) == (1, 3)


def test_a_refused_job_settles_all_its_points() -> None:
    refused = demo.bad(demo.job(), None, Outcome.UNSUPPORTED, "no")
    selection = select([refused])
    assert (selection.points[0].stands_for, selection.asked, selection.gaps) == ((1, 4, 16), 3, ())


def test_a_refused_job_without_a_device_is_shown_under_its_target() -> None:
    of = demo.job(target=Target(device_id="orin-01"))
    refused = replace(demo.bad(of, None, Outcome.UNSUPPORTED, "no"), device=None, stack=None)
    assert select([refused]).classes == ("orin-01",)


def test_points_after_the_end_of_a_ladder_were_not_run() -> None:
    of = demo.job()
    selection = select([demo.ok(of, 1), demo.ok(of, 4, ladder_stop="saturated")])
    assert [(g.batch, g.kind) for g in selection.gaps] == [(16, "not_run")]
    assert selection.gaps[0].reason == "the ladder had ended at batch 4 (saturated)"


def test_a_point_without_a_record_is_missing() -> None:
    of = demo.job()
    selection = select([demo.ok(of, 1), demo.ok(of, 16)])
    assert [(g.batch, g.kind) for g in selection.gaps] == [(4, "missing")]


def test_an_expected_job_without_any_record_is_missing() -> None:
    there, absent = demo.job(), demo.job("resnet50")
    selection = select([demo.ok(there, b) for b in demo.SIZES], expected=[there, absent])
    assert [(g.series.model, g.batch, g.kind) for g in selection.gaps] == [
        ("resnet50", 1, "missing"),
        ("resnet50", 4, "missing"),
        ("resnet50", 16, "missing"),
    ]


def test_what_is_no_record_is_listed_and_never_fatal() -> None:
    good = demo.ok(demo.job(), 1)
    newer = replace(demo.ok(demo.job(), 4), schema=99)
    unread = Unread(Path("records/2026/03/01/x.json"), "missing key 'job' @ $")
    selection = select([unread, {"run_id": "dict"}, newer, good])
    assert [p.record for p in selection.points] == [good]
    assert {p.where for p in selection.problems} == {"records/2026/03/01/x.json", newer.run_id, "dict"}


def test_two_different_records_of_one_run_are_reported_and_the_earlier_is_used() -> None:
    earlier = demo.ok(demo.job(), 1)
    later = replace(earlier, attempt=2, finished_at="2026-03-02T00:00:00.000000+00:00")
    selection = select([later, earlier, earlier])
    assert [p.record.attempt for p in selection.points] == [1]
    assert [p.where for p in selection.problems] == [earlier.run_id]


def test_jobs_that_share_a_name_are_told_apart_by_what_differs() -> None:
    entropy = demo.job(way=("onnxruntime_cpu", "int8"))
    minmax = replace(entropy, job_id="demo-minmax", calibration=Calibration(method="minmax", samples=64))
    selection = select([demo.ok(entropy, 1), demo.ok(minmax, 1)])
    labels = {s.label for s in selection.series()}
    assert labels == {"onnxruntime_cpu int8 (entropy, 128 samples)", "onnxruntime_cpu int8 (minmax, 64 samples)"}


def test_options_that_only_one_job_has_name_it() -> None:
    plain = demo.job()
    last = replace(plain, job_id="demo-last", options={"channels_last": True})
    labels = {s.label for s in select([demo.ok(plain, 1), demo.ok(last, 1)]).series()}
    assert labels == {"pytorch fp32", "pytorch fp32 (channels_last=true)"}


def test_the_same_job_of_two_sweeps_is_told_apart_by_the_sweep() -> None:
    one = demo.job()
    two = replace(one, job_id="other-1", sweep_id="other-9")
    labels = {s.label for s in select([demo.ok(one, 1), demo.ok(two, 1)]).series()}
    assert labels == {"pytorch fp32 (sweep demo-1a2b)", "pytorch fp32 (sweep other-9)"}


def test_two_units_of_a_class_share_tables_and_are_named() -> None:
    other = replace(demo.DEVICE, device_id="bench-02-cpu", host="bench-02")
    one = demo.job()
    two = replace(one, job_id="demo-two")
    selection = select([demo.ok(one, 1), demo.ok(two, 1, device=other)])
    assert {s.variant for s in selection.series()} == {"on bench-01-cpu", "on bench-02-cpu"}
    assert selection.classes == (demo.DEVICE.device_class,)


def test_a_job_that_moved_to_another_unit_has_its_gaps_once() -> None:
    other = replace(demo.DEVICE, device_id="bench-02-cpu", host="bench-02")
    of = demo.job()
    selection = select([demo.ok(of, 1), demo.ok(of, 4, device=other)])
    assert [(g.batch, g.kind) for g in selection.gaps] == [(16, "missing")]
    assert len(selection.series()) == 2


def test_a_number_that_is_not_finite_does_not_end_the_report() -> None:
    odd = demo.ok(demo.job(), 1, metrics={"latency_ms": float("nan")})
    assert len(select([odd]).points) == 1


def test_a_record_is_found_under_the_day_it_finished() -> None:
    record = demo.ok(demo.job(), 1, finished_at="2026-12-31T23:59:59.000000+00:00")
    assert record_path(record) == f"records/2026/12/31/{record.run_id}.json"


def test_text_that_is_no_unicode_is_listed_and_not_fatal() -> None:
    broken = replace(demo.ok(demo.job(), 1), host={"hostname": "\ud800"})
    found = select([broken, demo.ok(demo.job(), 4)])
    assert [p.batch for p in found.points] == [4]
    ((where, problem),) = [(p.where, p.problem) for p in found.problems]
    assert where == broken.run_id and "surrogate" in problem
