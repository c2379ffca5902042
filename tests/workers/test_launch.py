# SPDX-License-Identifier: Apache-2.0
"""The supervisor and its handle, with real processes: however a run ends, nothing of it is left and it is known why."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.workers.support import is_alive, marked, run_python, wait_until
from workers.daemon import control as control_module
from workers.daemon.clock import boottime
from workers.daemon.control import Control
from workers.daemon.launch import Ended, Launched, Plan
from workers.daemon.stages import Overdue, StageClock

MakePlan = Callable[..., Plan]


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """After every test here: no process that carries its mark."""
    yield
    assert marked(f"INFERFARM_DEVICE={tmp_path}") == []


def run(plan: Plan, while_running: Callable[[Launched], None] = lambda _run: None) -> Ended:
    with Launched(plan) as launched:
        thread = threading.Thread(target=while_running, args=(launched,))
        thread.start()
        ended = launched.follow(lambda _clock: None)
        thread.join(timeout=120)
    return ended


def in_stage(control: Control, stage: str) -> Callable[[], object]:
    return lambda: control.events.exists() and f'"{stage}"' in control.events.read_text()


def test_a_run_that_ends_well(plan: MakePlan, control: Control, start: str) -> None:
    ended = run(plan("event('stage_start', 'build'); event('stage_end', 'build'); result()"))
    assert ended.started == (start, None)
    assert ended.report is not None
    assert (ended.report.exit_code, ended.report.signal, ended.report.reason) == (0, None, None)
    assert ended.report.killed_stragglers == 0
    assert 0 < ended.report.ended_ns - ended.report.started_ns < 60e9
    assert ended.report.max_rss_bytes is not None
    assert 1 << 20 < ended.report.max_rss_bytes < 1 << 30
    assert [stage.name for stage in ended.stages] == ["start", "build"]
    assert control_module.read_result(control, measured=False).result is not None


def test_a_signal_and_an_exit_code_are_told_apart(plan: MakePlan) -> None:
    ended = run(plan("os.kill(os.getpid(), signal.SIGSEGV)"))
    assert ended.report is not None
    assert (ended.report.exit_code, ended.report.signal) == (None, signal.SIGSEGV)
    ended = run(plan("sys.exit(3)"))
    assert ended.report is not None
    assert (ended.report.exit_code, ended.report.signal) == (3, None)


def test_five_megabytes_of_noise_do_no_harm_and_are_in_the_log(plan: MakePlan, control: Control) -> None:
    ended = run(plan("[print('x' * 1000) for _ in range(5000)]; sys.stderr.write('the end'); result()"))
    assert ended.report is not None
    assert ended.report.exit_code == 0
    assert control.log.stat().st_size > 5_000_000
    assert control_module.log_tail(control, 20).endswith("the end")


def test_descendants_in_sessions_of_their_own_die_with_a_runner_that_ends_by_itself(plan: MakePlan) -> None:
    script = """
    def daemonise():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"])
            os._exit(0)
    daemonise(); daemonise()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    result(); os._exit(0)
    """
    ended = run(plan(script))
    assert ended.report is not None
    assert (ended.report.exit_code, ended.report.reason, ended.report.killed_stragglers) == (0, None, 3)


def test_a_run_that_ignores_sigterm_is_killed_with_its_children(plan: MakePlan, control: Control) -> None:
    script = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    event('stage_start', 'measure')
    time.sleep(600)
    """

    def cancel(launched: Launched) -> None:
        wait_until(in_stage(control, "measure"), "stage")
        launched.kill("cancelled")

    ended = run(plan(script), cancel)
    assert ended.report is not None
    assert (ended.report.signal, ended.report.reason, ended.report.killed_stragglers) == (
        signal.SIGKILL,
        "cancelled",
        1,
    )
    assert ended.last_stage == "measure"


def test_a_run_that_heeds_sigterm_may_clear_up_within_the_grace(plan: MakePlan, control: Control) -> None:
    script = """
    def leave(*_):
        open(os.path.join(DIR, "cleared"), "w").close()
        sys.exit(0)
    signal.signal(signal.SIGTERM, leave)
    event('stage_start', 'measure')
    time.sleep(600)
    """

    def cancel(launched: Launched) -> None:
        wait_until(in_stage(control, "measure"), "stage")
        launched.kill("cancelled")

    ended = run(plan(script, grace_s=10.0), cancel)
    assert ended.report is not None
    assert (ended.report.exit_code, ended.report.reason) == (0, "cancelled")
    assert (control.path / "cleared").exists()


def test_a_stage_past_its_limit_ends_the_run(plan: MakePlan) -> None:
    script = "event('stage_start', 'start'); event('stage_start', 'build'); time.sleep(600)"
    ended = run(plan(script, limits_s={"build": 0.5, "default": 60.0}))
    assert ended.overdue == Overdue("build", 0.5)
    assert ended.report is not None
    assert ended.report.reason == "stage-limit"


def test_a_run_that_never_says_anything_is_held_to_the_limit_of_start(plan: MakePlan) -> None:
    ended = run(plan("time.sleep(600)", limits_s={"start": 0.5, "default": 60.0}))
    assert ended.overdue == Overdue("start", 0.5)


def test_the_deadline_ends_the_run_unless_it_is_renewed(plan: MakePlan, control: Control) -> None:
    first, went_on = boottime() + 2.0, []

    def renew_once(launched: Launched) -> None:
        launched.renew(first + 600)
        wait_until(lambda: boottime() > first + 0.5, "the first deadline")
        went_on.append(not control.exit.exists())
        launched.renew(boottime() + 0.2)

    ended = run(plan("time.sleep(600)", deadline=first), renew_once)
    assert ended.report is not None
    assert ended.report.reason == "lease-expired"
    assert went_on == [True]


def test_an_interpreter_that_is_not_there_is_named(plan: MakePlan) -> None:
    ended = run(plan("", python="/nowhere/python3"))
    assert ended.report is not None
    assert ended.report.error == "/nowhere/python3: No such file or directory"


def test_the_runner_gets_no_setting_or_secret_and_no_descriptor(
    plan: MakePlan, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_BROKER_URL", "redis://:secret@host/0")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    script = """
    here = "/proc/self/fd/"
    fds = {fd: os.readlink(here + fd) for fd in os.listdir(here) if os.path.exists(here + fd)}
    json.dump(dict(env=dict(os.environ), fds=fds, cwd=os.getcwd(), sid=os.getsid(0), pid=os.getpid(),
        oom=open("/proc/self/oom_score_adj").read(), sigint=str(signal.getsignal(signal.SIGINT))),
        open(os.path.join(DIR, "seen.json"), "w"))
    """
    signal_before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run(plan(script, env={"INFERFARM_DEVICE": "d", "LD_LIBRARY_PATH": "/opt/lib"}))
    finally:
        signal.signal(signal.SIGINT, signal_before)
    seen = json.loads((control.path / "seen.json").read_text())
    assert set(seen["env"]) <= {
        "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "INFERFARM_DEVICE", "LD_LIBRARY_PATH"
    }  # fmt: skip
    assert seen["env"]["LD_LIBRARY_PATH"] == "/opt/lib"
    assert seen["env"]["TMPDIR"] == str(control.path / "tmp")
    assert seen["fds"] == {"0": "/dev/null", "1": str(control.log), "2": str(control.log)}
    assert seen["cwd"] == str(control.path)
    assert seen["sid"] == seen["pid"]
    assert seen["oom"].strip() == "1000"
    assert "default_int_handler" in seen["sigint"]


def test_progress_and_stages_reach_the_caller(plan: MakePlan, control: Control) -> None:
    """Each thing that the runner says is seen before it says the next."""
    seen: list[tuple[str, float | None]] = []
    script = """
    def seen(count):
        while not os.path.exists(os.path.join(DIR, "seen-%d" % count)):
            time.sleep(0.01)
    event('stage_start', 'warm_up'); seen(1)
    event('progress', 'warm_up', fraction=0.5); seen(2)
    event('stage_start', 'measure'); seen(3)
    """
    with Launched(plan(script)) as launched:

        def note(clock: StageClock) -> None:
            seen.append((clock.stage, clock.fraction))
            (control.path / f"seen-{len(seen)}").touch()

        launched.follow(note)
    assert seen == [("warm_up", None), ("warm_up", 0.5), ("measure", None)]


def test_a_killed_supervisor_takes_the_runner_with_it_and_leaves_no_report(plan: MakePlan, control: Control) -> None:
    def kill_supervisor(launched: Launched) -> None:
        wait_until(in_stage(control, "measure"), "stage")
        os.kill(launched._process.pid, signal.SIGKILL)

    ended = run(plan("event('stage_start', 'measure'); time.sleep(600)"), kill_supervisor)
    assert ended.report is None
    # The kernel closes the dead supervisor's files before it tells its child.
    wait_until(lambda: marked(f"INFERFARM_DEVICE={control.path.parents[2]}") == [], "end of the runner")


def test_an_error_in_the_daemon_ends_the_run(plan: MakePlan) -> None:
    def fail(_clock: StageClock) -> None:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError), Launched(plan("event('stage_start', 'build'); time.sleep(600)")) as launched:
        launched.follow(fail)


DAEMON = """
import sys, threading
from dataclasses import replace
from pathlib import Path
from workers.daemon.control import Control
from workers.daemon.launch import Launched, Plan
from workers.daemon.lock import Holder, hold
from farm.settings import Settings
from workers.daemon.launch import runner_environment
from workers.daemon.warm import WarmRunners
from workers.daemon.warm_parent import Key
with hold(Path(sys.argv[1]), Holder(1, "job", "home", 0.0), wait_s=5) as fd:
    bundle, control = Path(sys.argv[2]), Control(Path(sys.argv[3]))
    plan = Plan(sys.executable, bundle, control, {"INFERFARM_DEVICE": sys.argv[4]}, {}, fd)
    if sys.argv[5]:
        warm, stop = WarmRunners(Settings()), threading.Event()
        key = Key(sys.executable, Path(sys.argv[5]), tuple(sorted(runner_environment({}).items())), ())
        plan = replace(plan, fork=lambda lock_fd, log_fd: warm.fork(key, lock_fd, log_fd, stop))
    with Launched(plan) as launched:
        launched.follow(lambda clock: None)
"""


def test_a_killed_daemon_s_tree_dies_and_only_then_is_the_lock_free(
    plan: MakePlan, control: Control, tmp_path: Path, start: str, island_bundle: Path
) -> None:
    script = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    json.dump([os.getpid(), child.pid], open(os.path.join(DIR, "pids"), "w"))
    event('stage_start', 'measure')
    time.sleep(600)
    """
    bundle, path = plan(script).bundle, tmp_path / "own.lock"
    daemon = subprocess.Popen(
        run_python(
            DAEMON,
            str(path),
            str(bundle),
            str(control.path),
            str(tmp_path),
            str(island_bundle) if start == "forked" else "",
        )
    )
    with daemon:
        wait_until(in_stage(control, "measure"), "stage")
        pids = json.loads((control.path / "pids").read_text())
        assert all(map(is_alive, pids))
        daemon.kill()
    with path.open() as stream:

        def lock_is_free() -> bool:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        wait_until(lock_is_free, "free lock")
        assert not any(map(is_alive, pids))
    report = json.loads(control.exit.read_text())
    assert (report["reason"], report["signal"], report["killed_stragglers"]) == ("daemon-died", signal.SIGKILL, 1)
