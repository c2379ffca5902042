# SPDX-License-Identifier: Apache-2.0
"""The checker finds each kind of planted violation, and none where there is none."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.farm import ChaosFarm, leftovers
from tests.chaos.faults import FAULTS, Fault, Injected, Pick
from tests.chaos.invariants import Evidence, Fact, Job, Line, Violation, check, never_injected, parse_log
from tests.chaos.schedule import Planned, schedule, told
from tests.chaos.suite import Done
from tests.chaos.table import OTHER, blame, markdown, rows

JOB = Job("j", ("j-b1", "j-b2"), "j-all")


def line(event: str, run_id: str, at: int, execution: str, device: str = "d", others: tuple[int, ...] = ()) -> Line:
    return Line(event, run_id, "j", device, execution, 1, at, "boot", others)


def ran(run_id: str, begin: int, end: int, execution: str, device: str = "d") -> list[Line]:
    return [line("start", run_id, begin, execution, device), line("end", run_id, end, execution, device)]


SOUND = Evidence(
    jobs=[JOB],
    lines=[*ran("j-all", 1, 2, "p"), *ran("j-b1", 3, 4, "x"), *ran("j-b2", 5, 6, "y")],
    facts=[Fact("j-b1", "j", "ok", "x", "d"), Fact("j-b2", "j", "ok", "y", "d", None, "end")],
    states={"j": "done"},
)


def texts(**changes: object) -> list[str]:
    return [f"{v.rule}: {v.text}" for v in check(dataclasses.replace(SOUND, **changes))]  # type: ignore[arg-type]


def test_a_sound_run_has_no_violations() -> None:
    assert texts() == []


def test_a_job_without_all_its_records_is_missing() -> None:
    assert texts(facts=SOUND.facts[:1], states={"j": "running"}) == ["ended: job j (running) has no record of j-b2"]
    assert texts(facts=[], states={}) == ["ended: job j (not known to Redis) has no record of j-b1, j-b2"]


def test_a_job_whose_ladder_stopped_or_that_was_given_up_is_complete() -> None:
    stopped = Fact("j-b1", "j", "out_of_memory", "x", "d", "out-of-memory", "out_of_memory")
    assert texts(facts=[stopped]) == []
    given_up = Fact("j-all", "j", "lost", None, None, "attempts-exhausted", "lost")
    assert texts(facts=[given_up], lines=[]) == []


def test_a_job_that_redis_still_holds_has_not_ended() -> None:
    assert texts(states={"j": "running"}) == ["ended: job j has its records and is still running"]


def test_a_bad_end_without_a_reason_is_a_violation() -> None:
    facts = [SOUND.facts[0], Fact("j-b2", "j", "crashed", "y", "d")]
    assert texts(facts=facts) == ["ended: run j-b2 is crashed without a reason"]


def test_two_runs_at_once_on_a_device_are_found_by_their_times() -> None:
    lines = [*SOUND.lines, *ran("j-b2", 3, 7, "z")]
    assert texts(lines=lines) == [
        "alone: run j-b2 began on d before j-b1 had ended",
        "alone: run j-b2 began on d before j-b2 had ended",
    ]
    elsewhere = [*SOUND.lines, *ran("j-b2", 3, 7, "z", "another")]
    assert texts(lines=elsewhere) == []


def test_a_run_that_began_while_a_killed_ones_process_lived_is_found() -> None:
    killed = [line("start", "j-b1", 3, "k"), line("start", "j-b1", 4, "x", others=(77,)), line("end", "j-b1", 5, "x")]
    lines = [*ran("j-all", 1, 2, "p"), *killed, *ran("j-b2", 6, 7, "y")]
    assert texts(lines=lines) == ["alone: run j-b1 began on d beside the processes [77]"]
    gone = [dataclasses.replace(one, others=()) for one in lines]
    assert texts(lines=gone) == []


def test_times_of_different_boots_are_not_compared() -> None:
    later = [dataclasses.replace(one, boot="next") for one in ran("j-b2", 3, 7, "z")]
    assert texts(lines=[*SOUND.lines, *later]) == []


def test_a_second_record_of_a_run_is_found() -> None:
    facts = [*SOUND.facts, Fact("j-b1", "j", "crashed", None, "d", "sigkill")]
    assert texts(facts=facts) == ["once: run j-b1 has 2 records"]


def test_two_records_of_one_execution_are_found() -> None:
    facts = [SOUND.facts[0], Fact("j-b2", "j", "ok", "x", "d", None, "end")]
    found = texts(facts=facts)
    assert "once: 2 records are of one execution, x" in found
    assert any("which was not that run there" in text for text in found)


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (Fact("j-b2", "j", "ok", "other", "d"), "tells of execution other on d, which was not that run there"),
        (Fact("j-b2", "j", "ok", "y", "elsewhere"), "tells of execution y on elsewhere, which was not that run there"),
        (Fact("j-b2", "j", "ok", None, "d"), "tells of no execution"),
        (Fact("x-b1", "x", "cancelled", None, None, "cancelled"), "is of no job that was submitted"),
    ],
    ids=["unknown execution", "other device", "none", "unknown job"],
)
def test_a_record_that_does_not_tell_of_what_ran_is_found(fact: Fact, expected: str) -> None:
    found = texts(facts=[SOUND.facts[0], SOUND.facts[1], fact] if fact.job_id == "x" else [SOUND.facts[0], fact])
    assert [text for text in found if expected in text]


def test_an_ok_record_of_an_execution_that_never_ended_is_found() -> None:
    lines = [one for one in SOUND.lines if (one.event, one.execution) != ("end", "y")]
    assert texts(lines=lines) == ["once: the record of run j-b2 (ok) tells of execution y, which never ended"]


def test_a_failure_of_what_never_began_is_found_and_one_that_was_killed_at_its_start_is_not() -> None:
    facts = [Fact("j-b1", "j", "crashed", None, "d", "sigkill"), Fact("j-b2", "j", "crashed", None, "d", "sigkill")]
    first = [line("start", "j-b1", 3, "x")]
    assert texts(facts=facts, lines=first) == ["once: the record of run j-b2 (crashed) is of a run that never began"]
    killed = [*first, line("kill", "j-b2", 5, "")]
    assert texts(facts=facts, lines=killed) == []
    prepare = [line("start", "j-all", 1, "p")]
    assert texts(facts=facts, lines=prepare) == []


def test_what_is_left_behind_is_told() -> None:
    assert texts(left=["process 7 (runner)"]) == ["clean: left behind: process 7 (runner)"]


def test_damaged_lines_of_the_log_are_told_and_stop_nothing() -> None:
    good = json.dumps(dataclasses.asdict(line("start", "j-b1", 3, "x")) | {"mode": "measure"})
    lines, damaged = parse_log(f'{good}\n{{"event": "sta\n[]\n')
    assert [one.run_id for one in lines] == ["j-b1"]
    assert len(damaged) == 2


def test_a_process_a_held_lock_and_a_spool_file_are_found_after_the_end(tmp_path: Path) -> None:
    farm = ChaosFarm(tmp_path / "farm")
    farm.settings.lock_dir.mkdir()
    worker = farm._worker(1)
    farm.workers.append(worker)
    lock, spooled = farm.settings.lock_dir / "d.lock", worker.settings.spool_dir / "run"
    lock.touch()
    assert leftovers(farm) == []
    spooled.mkdir(parents=True)
    script = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)],
        env=os.environ | {"FARM_HOME": str(farm.base)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as left:
        assert left.stdout is not None
        assert left.stdout.readline() == b"held\n"
        found = leftovers(farm)
        left.kill()
    farm.kill()
    assert [text.split(" ")[0] for text in found] == ["process", "lock", "in"]
    assert str(left.pid) in found[0]


def test_a_fault_that_never_finds_anything_to_hurt_is_told() -> None:
    (told,) = never_injected({"a": 3, "b": 2, "c": 9}, ["c", "d"])
    assert (told.rule, told.text) == ("tried", "a: found nothing to hurt, 3 times of 3")


def planned(number: int, fault: Fault) -> Planned:
    return Planned(number, 0.0, fault, Pick(0, 0.0, 0.0))


def test_the_same_seed_plans_the_same_faults_and_every_kind_comes() -> None:
    def first(seed: int, count: int) -> list[dict[str, object]]:
        plan = schedule(seed, 3)
        return [told(next(plan)) for _ in range(count)]

    assert first(7, 60) == first(7, 60)
    assert first(7, 60) != first(8, 60)
    assert {str(one["fault"]) for one in first(7, len(FAULTS))} == {fault.name for fault in FAULTS}


def test_the_table_counts_by_kind_and_blames_the_last_fault_on_the_device() -> None:
    one, two = FAULTS[0], FAULTS[1]
    done = [
        Done(planned(0, one), Injected(("d",)), 1_000, 2_000, set(), 1_000_002_000),
        Done(planned(1, two), Injected(("e",)), 3_000, 4_000, {"e"}),
    ]
    overlap = Violation("alone", "two at once", "d", 5_000)
    assert blame(overlap, done) == one.name
    assert blame(Violation("clean", "left"), done) == OTHER
    found = rows(done, [overlap, Violation("clean", "left")], [fault.name for fault in FAULTS])
    assert [(row.kind, row.injected, row.recovered, row.violations) for row in found] == [
        (one.name, 1, 1, 1),
        (two.name, 1, 0, 0),
        (OTHER, 0, 0, 1),
    ]
    assert f"| {one.name} | 1 | 1 | 1.0 | 1.0 | 1 |" in markdown(found)
    assert "| all | 2 | 1 | | | 2 |" in markdown(found)
