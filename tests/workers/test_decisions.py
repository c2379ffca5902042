# SPDX-License-Identifier: Apache-2.0
"""The worker's pure decisions: outcome, ladder, stage clock, end state of a job."""

from __future__ import annotations

import itertools
import signal
from typing import Any

import pytest

from farm.broker.jobs import JobState
from farm.contract.job import BatchLadder
from farm.contract.outcome import Failure, Outcome
from farm.contract.run import Event, RunResult
from workers.daemon.classify import Evidence, classify
from workers.daemon.execute import job_state
from workers.daemon.ladder import Point, Stop, next_step
from workers.daemon.launch import Ended, ExitReport
from workers.daemon.stages import Overdue, StageClock

OK_RESULT = RunResult("run", Outcome.OK)


def ended(*, overdue: Overdue | None = None, lost: bool = False, **report: Any) -> Ended:
    fields = {"exit_code": None, "signal": None, "reason": None, "error": None, "max_rss_bytes": 1, "user_s": 0.1}
    fields |= {"system_s": 0.1, "killed_stragglers": 0, "started_ns": 0, "ended_ns": 1} | report
    return Ended(None if lost else ExitReport(**fields), "measure", overdue)


def evidence(end: Ended, result: RunResult | None = None, **more: Any) -> Evidence:
    return Evidence("run", end, result, **more)


REFUSED = RunResult("run", Outcome.UNSUPPORTED, Failure("load_model", "no-bf16", "no bf16 here"))
CASES: list[tuple[str, Evidence, Outcome, str, str]] = [
    ("result", evidence(ended(exit_code=0), REFUSED), Outcome.UNSUPPORTED, "no-bf16", "no bf16"),
    (
        "unexplained",
        evidence(ended(exit_code=0), RunResult("run", Outcome.FAILED)),
        Outcome.FAILED,
        "unexplained",
        "without a reason",
    ),
    ("segv", evidence(ended(signal=signal.SIGSEGV)), Outcome.CRASHED, "sigsegv", "signal SIGSEGV in stage measure"),
    (
        "segv after ok",
        evidence(ended(signal=signal.SIGSEGV), OK_RESULT),
        Outcome.CRASHED,
        "sigsegv",
        "after it had written its result",
    ),
    ("killed", evidence(ended(signal=signal.SIGKILL)), Outcome.CRASHED, "sigkill", "signal SIGKILL in stage measure"),
    (
        "killed, unknown count",
        evidence(ended(signal=signal.SIGKILL), oom_kills=None),
        Outcome.CRASHED,
        "sigkill",
        "SIGKILL",
    ),
    ("killed, no oom", evidence(ended(signal=signal.SIGKILL), oom_kills=0), Outcome.CRASHED, "sigkill", "SIGKILL"),
    (
        "killed by the kernel",
        evidence(ended(signal=signal.SIGKILL), oom_kills=1),
        Outcome.OUT_OF_MEMORY,
        "host-out-of-memory",
        "ran out of memory",
    ),
    (
        "segv while others oom",
        evidence(ended(signal=signal.SIGSEGV), oom_kills=1),
        Outcome.CRASHED,
        "sigsegv",
        "SIGSEGV",
    ),
    ("realtime signal", evidence(ended(signal=40)), Outcome.CRASHED, "sig40", "SIG40"),
    (
        "through a shell",
        evidence(ended(exit_code=139)),
        Outcome.CRASHED,
        "sigsegv",
        "SIGSEGV (exit code 139) in stage measure",
    ),
    ("no result", evidence(ended(exit_code=0)), Outcome.FAILED, "no-result", "in stage measure without a result"),
    (
        "damaged result",
        evidence(ended(exit_code=0), result_fault="cut short"),
        Outcome.FAILED,
        "damaged-result",
        "cut short",
    ),
    (
        "foreign result",
        evidence(ended(exit_code=0), RunResult("other", Outcome.OK)),
        Outcome.FAILED,
        "foreign-result",
        "run other, not run",
    ),
    ("exit code", evidence(ended(exit_code=1)), Outcome.FAILED, "runner-exit", "exit code 1 in stage measure"),
    ("exit code and ok", evidence(ended(exit_code=1), OK_RESULT), Outcome.FAILED, "runner-exit", "exit code 1"),
    ("old python", evidence(ended(exit_code=97)), Outcome.UNSUPPORTED, "python-too-old", "older than Python 3.8"),
    (
        "stage limit",
        evidence(ended(signal=9, reason="stage-limit", overdue=Overdue("build", 5.0)), oom_kills=3),
        Outcome.TIMED_OUT,
        "stage-limit",
        "build was still running after its limit of 5 s",
    ),
    (
        "stage limit, result came with it",
        evidence(ended(exit_code=0, reason="stage-limit", overdue=Overdue("finish", 5.0)), OK_RESULT),
        Outcome.TIMED_OUT,
        "stage-limit",
        "finish",
    ),
    (
        "ended by itself as the limit passed",
        evidence(ended(exit_code=0, overdue=Overdue("finish", 5.0)), RunResult("run", Outcome.FAILED)),
        Outcome.FAILED,
        "unexplained",
        "",
    ),
    ("cancelled", evidence(ended(signal=15, reason="cancelled")), Outcome.CANCELLED, "cancelled", "cancelled"),
    ("fenced", evidence(ended(signal=9, reason="fenced")), Outcome.LOST, "lease-lost", "fenced"),
    ("expired", evidence(ended(signal=9, reason="lease-expired")), Outcome.LOST, "lease-lost", "lease-expired"),
    ("daemon died", evidence(ended(signal=9, reason="daemon-died")), Outcome.LOST, "lease-lost", "daemon-died"),
    ("supervisor lost", evidence(ended(lost=True)), Outcome.CRASHED, "supervisor-lost", "vanished"),
    (
        "no interpreter",
        evidence(ended(exit_code=126, error="/x: No such file")),
        Outcome.FAILED,
        "interpreter-missing",
        "/x: No such file",
    ),
]


@pytest.mark.parametrize(("name", "given", "outcome", "reference", "message"), CASES, ids=[case[0] for case in CASES])
def test_every_way_to_end_has_one_outcome_and_says_why(
    name: str, given: Evidence, outcome: Outcome, reference: str, message: str
) -> None:
    found, failure = classify(given)
    assert found is outcome
    assert failure is not None
    assert failure.reference == reference
    assert message in failure.message


def test_only_a_clean_end_with_its_own_ok_result_is_ok() -> None:
    assert classify(evidence(ended(exit_code=0), OK_RESULT)) == (Outcome.OK, None)


def test_the_end_of_the_log_is_kept_as_detail() -> None:
    _, failure = classify(evidence(ended(signal=6), log_tail="terminate called"))
    assert failure is not None
    assert failure.detail == "terminate called"


# The ladder.

LADDER = BatchLadder(sizes=(1, 2, 4, 8), until=("out_of_memory", "saturated"))


def points(*rows: tuple[int, str | float]) -> list[Point]:
    return [
        Point(size, Outcome(value)) if isinstance(value, str) else Point(size, Outcome.OK, value)
        for size, value in rows
    ]


def test_a_ladder_goes_through_its_sizes_and_ends() -> None:
    assert next_step(LADDER, []) == 1
    assert next_step(LADDER, points((1, 10.0), (2, 20.0))) == 4
    assert next_step(LADDER, points((1, 10.0), (2, 20.0), (4, 40.0), (8, 80.0))) is Stop.END


def test_out_of_memory_ends_it_only_where_the_sweep_says_so() -> None:
    run = points((1, 10.0), (2, "out_of_memory"))
    assert next_step(LADDER, run) is Stop.OUT_OF_MEMORY
    assert next_step(BatchLadder(LADDER.sizes, until=()), run) == 4


@pytest.mark.parametrize("outcome", ["failed", "crashed", "timed_out", "unsupported", "lost"])
def test_a_point_that_failed_does_not_end_it(outcome: str) -> None:
    assert next_step(LADDER, points((1, outcome), (2, outcome))) == 4


@pytest.mark.parametrize(
    ("rows", "saturated"),
    [
        ([(1, 100.0), (2, 104.0), (4, 108.0)], True),
        ([(1, 100.0), (2, 90.0), (4, 80.0)], True),
        ([(1, 100.0), (2, 104.0)], False),
        ([(1, 100.0), (2, 104.0), (4, 120.0)], False),
        ([(1, 100.0), (2, 120.0), (4, 121.0)], False),
        ([(1, 100.0), (2, "crashed"), (4, 101.0)], False),
        ([(1, 50.0), (2, 100.0), (4, 101.0)], False),
    ],
)
def test_saturation_is_two_steps_running_that_gain_less_than_five_per_cent(
    rows: list[tuple[int, str | float]], saturated: bool
) -> None:
    assert (next_step(LADDER, points(*rows)) is Stop.SATURATED) is saturated
    assert next_step(BatchLadder(LADDER.sizes), points(*rows)) in (4, 8)


def test_a_ladder_that_does_not_climb_is_never_saturated() -> None:
    ladder = BatchLadder(sizes=(8, 4, 2, 1), until=("saturated",))
    assert next_step(ladder, points((8, 100.0), (4, 100.0), (2, 100.0))) == 1


@pytest.mark.parametrize(
    "done", list(itertools.chain.from_iterable(itertools.combinations((1, 2, 4, 8), n) for n in range(5)))
)
def test_points_of_an_earlier_attempt_are_not_measured_again(done: tuple[int, ...]) -> None:
    step = next_step(BatchLadder((1, 2, 4, 8)), points(*[(size, float(size)) for size in done]))
    left = [size for size in (1, 2, 4, 8) if size not in done]
    assert step == (left[0] if left else Stop.END)


# The stage clock.

S = 1_000_000_000


def test_each_stage_is_held_to_its_own_limit_from_its_own_start() -> None:
    clock = StageClock({"start": 2.0, "build": 5.0, "default": 3.0}, 0)
    assert clock.overdue(2 * S) is None
    assert clock.overdue(2 * S + 1) == Overdue("start", 2.0)
    assert clock.see(Event("stage_start", "build", 2 * S), 2 * S)
    assert clock.overdue(7 * S) is None
    assert clock.overdue(7 * S + 1) == Overdue("build", 5.0)


def test_between_stages_and_without_a_limit_of_its_own_the_default_holds() -> None:
    clock = StageClock({"build": 5.0, "default": 3.0}, 0)
    clock.see(Event("stage_start", "build", 0), 0)
    clock.see(Event("stage_end", "build", S), S)
    assert clock.overdue(4 * S + 1) == Overdue("build", 3.0)
    clock.see(Event("stage_start", "outputs", 4 * S), 4 * S)
    assert clock.overdue(7 * S + 1) == Overdue("outputs", 3.0)
    assert StageClock({}, 0).limit_s == 120.0


def test_neither_progress_nor_a_loop_of_stages_buys_time() -> None:
    clock = StageClock({"default": 3.0}, 0)
    for second in range(4):
        clock.see(Event("stage_start", "build", second * S), second * S)
        clock.see(Event("progress", "build", second * S, 0.5), second * S)
    assert clock.fraction == 0.5
    assert clock.overdue(3 * S + 1) == Overdue("build", 3.0)


def test_times_from_the_future_or_the_past_and_unknown_stages_are_not_believed() -> None:
    clock = StageClock({"default": 3.0}, 10 * S)
    assert not clock.see(Event("stage_start", "lunch", 11 * S), 11 * S)
    clock.see(Event("stage_start", "build", 10**30), 11 * S)
    assert clock.since_ns == 11 * S
    clock.see(Event("stage_start", "outputs", 0), 12 * S)
    assert clock.since_ns == 11 * S


def test_the_stages_that_were_reached_are_known_without_a_result() -> None:
    clock = StageClock({}, 0)
    for kind, stage, at in [
        ("stage_start", "start", 1),
        ("stage_end", "start", 2),
        ("stage_start", "build", 3),
        ("stage_end", "build", 4),
        ("stage_start", "measure", 5),
    ]:
        clock.see(Event(kind, stage, at), at)
    assert [(s.name, s.start_ns, s.end_ns) for s in clock.stages(9)] == [
        ("start", 0, 2),
        ("build", 3, 4),
        ("measure", 5, 9),
    ]


# The job's end.


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ({"ok": 3}, JobState.DONE),
        ({}, JobState.DONE),
        ({"ok": 1, "out_of_memory": 1}, JobState.DONE),
        ({"unsupported": 2}, JobState.DONE),
        ({"ok": 5, "crashed": 1}, JobState.FAILED),
        ({"timed_out": 1}, JobState.FAILED),
        ({"failed": 1}, JobState.FAILED),
        ({"lost": 1}, JobState.FAILED),
    ],
)
def test_a_job_failed_if_any_point_is_neither_ok_nor_a_result(outcomes: dict[str, int], state: JobState) -> None:
    assert job_state(outcomes) is state
    assert job_state(outcomes, cancelled=True) is JobState.CANCELLED
