# SPDX-License-Identifier: Apache-2.0
"""The control directory from the daemon's side: whatever a runner leaves there, the daemon makes sense of it."""

from __future__ import annotations

import array
import json
import stat
from pathlib import Path

import pytest

from farm.contract.codec import from_json
from farm.contract.run import RunRequest
from tests.factories import make_job
from tests.workers.support import make_control
from workers.daemon import control as module
from workers.daemon.control import Control, EventFollower, read_result

EVENT = b'{"kind": "stage_start", "stage": "build", "monotonic_ns": 5}\n'


def leave(control: Control, document: object) -> None:
    control.result.write_text(document if isinstance(document, str) else json.dumps(document))


def leave_samples(control: Control, values: list[int]) -> dict[str, object]:
    (control.path / "samples/latency.i64").write_bytes(array.array("q", values).tobytes())
    return {"name": "latency", "path": "samples/latency.i64", "count": len(values)}


def test_a_fresh_directory_is_private_and_holds_the_request_alone(tmp_path: Path) -> None:
    control = make_control(tmp_path)
    leave(control, "old")
    assert make_control(tmp_path) == control
    assert not control.result.exists()
    assert stat.S_IMODE(control.path.stat().st_mode) == 0o700
    request = from_json(RunRequest, json.loads(control.request.read_bytes()))
    assert (request.mode, request.batch_size, request.job) == ("measure", 1, make_job())


def test_an_id_that_is_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run id"):
        make_control(tmp_path, make_job(job_id="../../x"))


def test_events_are_read_as_they_grow_with_damage_counted(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    follower = EventFollower(path)
    assert follower.read() == []
    path.write_bytes(EVENT + EVENT[:20])
    assert [event.stage for event in follower.read()] == ["build"]
    assert follower.read() == []
    with path.open("ab") as stream:
        stream.write(EVENT[20:] + b"\xff\n[]\n" + b"[" * 5000 + b"\n" + EVENT)
    assert len(follower.read()) == 2
    assert follower.damaged == 3


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    follower = EventFollower(path)
    path.write_bytes(b"x" * (5 << 20) + b"\n" + EVENT)
    events = [event for _ in range(8) for event in follower.read()]
    assert len(events) == 1
    assert follower.damaged >= 1


def test_no_result_is_no_fault(control: Control) -> None:
    assert read_result(control, measured=True) == module.ReadResult()


def test_a_sound_result_comes_with_its_samples(control: Control) -> None:
    leave(control, {"run_id": "r", "outcome": "ok", "samples": [leave_samples(control, [5, 6, 7])]})
    read = read_result(control, measured=True)
    assert read.fault is None
    assert read.samples is not None
    assert read.samples["latency"].tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ('{"run_id": "r", "outcome": "o', "cannot be read"),
        ("", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ([], "expected an object"),
        ({"run_id": "r"}, "missing key 'outcome' @ $"),
        ({"run_id": "r", "outcome": "splendid"}, "$.outcome"),
        ('{"run_id": "r", "outcome": "ok", "metrics": {"load_ms": NaN}}', "NaN"),
        ({"run_id": "r", "outcome": "ok"}, "no latency samples"),
        (
            {"run_id": "r", "outcome": "ok", "stages": [{"name": "measure", "start_ns": 5, "end_ns": 4}]},
            "ends before it starts",
        ),
        ({"run_id": "r", "outcome": "ok", "samples": [{"name": "latency", "path": "gone", "count": 1}]}, "gone"),
        (
            {"run_id": "r", "outcome": "ok", "samples": [{"name": "latency", "path": "../../../x", "count": 1}]},
            "sample file",
        ),
    ],
)
def test_a_damaged_result_has_a_fault_that_says_what(control: Control, document: object, fault: str) -> None:
    leave(control, document)
    read = read_result(control, measured=True)
    assert read.result is None
    assert read.fault is not None
    assert fault in read.fault


@pytest.mark.parametrize(
    ("count", "values", "fault"), [(4, [1, 2, 3], "24 bytes, 4 samples need 32"), (1, [-1], "neg")]
)
def test_samples_that_cannot_be_right_are_a_fault(control: Control, count: int, values: list[int], fault: str) -> None:
    leave(control, {"run_id": "r", "outcome": "ok", "samples": [leave_samples(control, values) | {"count": count}]})
    assert fault in str(read_result(control, measured=True).fault)


def test_a_long_log_keeps_both_ends_and_says_what_is_missing(control: Control) -> None:
    control.log.write_bytes(b"first\n" + b"x" * (8 << 20) + b"\nlast")
    module.shorten_log(control)
    text = control.log.read_bytes()
    assert text.startswith(b"first\n")
    assert text.endswith(b"\nlast")
    assert b"bytes left out]" in text
    assert len(text) < (5 << 20) + 100


def test_a_log_without_bound_is_emptied_while_it_is_written(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_LIMIT_BYTES", 1000)
    with control.log.open("ab") as writer:
        writer.write(b"x" * 5000)
        writer.flush()
        assert module.bound_log(control)
        writer.write(b"and on")
        writer.flush()
        assert not module.bound_log(control)
    assert control.log.read_bytes().endswith(b"gone]\nand on")
