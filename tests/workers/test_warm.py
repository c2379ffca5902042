# SPDX-License-Identifier: Apache-2.0
"""Warm parents with real processes: what a forked runner shares with a fresh one, and when a parent is made anew."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.broker.jobs import Claim, JobStore
from farm.compare.order import turns
from farm.contract.catalogue import WORKFLOWS
from farm.contract.protocols import PROTOCOLS
from farm.settings import Settings
from farm.sweep import parse_sweep
from tests.factories import make_job
from tests.island.harness import require_python
from tests.workers.support import Background, fake_job, is_alive, make_control, records, run_python, wait_until
from workers.daemon import supervise
from workers.daemon.bench import Bench
from workers.daemon.launch import FORKED, FRESH, Ended, Launched, Plan, runner_environment
from workers.daemon.warm import MOST_FAILURES, MOST_PARENTS, WarmRunners, choose
from workers.daemon.warm_parent import Key, Parent, RefusedError
from workers.runner import warm as parent_side

MakePlan = Callable[..., Plan]
MakeClaim = Callable[..., Claim]
NEVER = threading.Event()

#: Everything that a program can see of how it was started.
LOOK = """
import ctypes, faulthandler, gc, resource, tempfile, threading
def status():
    names = ("Cap", "NoNewPrivs", "Seccomp", "Groups", "Uid", "Gid", "Umask", "SigBlk", "SigPnd", "ShdPnd")
    return [line.strip() for line in open("/proc/self/status") if line.startswith(names)]
def prctl(option):
    value = ctypes.c_int()
    ctypes.CDLL(None).prctl(option, ctypes.byref(value), 0, 0, 0)
    return value.value
here = "/proc/self/fd/"
PARENT = os.getppid()
seen = dict(
    argv=sys.argv, path=sys.path, flags=str(sys.flags), orig=sys.executable, prefix=sys.prefix,
    env=dict(os.environ), tempdir=tempfile.gettempdir(), cwd=os.getcwd(),
    marks=sorted(e for e in open("/proc/self/environ").read().split("\\0") if e.startswith(("INFERFARM", "TMPDIR"))),
    fds={fd: os.readlink(here + fd) for fd in os.listdir(here) if os.path.exists(here + fd)},
    leads=[os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
    parent_leads=os.getsid(PARENT) == PARENT,
    pdeathsig=prctl(2), subreaper=prctl(37), nice=os.nice(0), affinity=sorted(os.sched_getaffinity(0)),
    scheduler=[os.sched_getscheduler(0), os.sched_getparam(0).sched_priority],
    oom=open("/proc/self/oom_score_adj").read(), cgroup=open("/proc/self/cgroup").read(),
    limits={name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")},
    signals=[str(signal.getsignal(number)).split(" at ")[0] for number in sorted(signal.valid_signals())],
    mask=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), wakeup=signal.set_wakeup_fd(-1),
    threads=len(os.listdir("/proc/self/task")), status=status(), collector=[gc.isenabled(), gc.get_threshold()],
    faulthandler=faulthandler.is_enabled(), name=__name__, main=threading.current_thread().name,
    encodings=[sys.stdout.encoding, sys.stdout.line_buffering, sys.stderr.errors, sys.getfilesystemencoding()],
    daemonic=threading.main_thread().daemon, children=open("/proc/self/task/%d/children" % os.getpid()).read(),
)
json.dump(seen, open(os.path.join(DIR, "seen.json"), "w"))
"""


@pytest.fixture
def runners(settings: Settings) -> Iterator[WarmRunners]:
    """Warm parents of one test."""
    found = WarmRunners(settings)
    yield found
    found.close()


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A stack of its own: an interpreter with an empty site-packages."""
    venv.create(tmp_path / "stack", symlinks=True)
    return tmp_path / "stack"


def site(stack: Path) -> Path:
    return next((stack / "lib").glob("python*/site-packages"))


def key_of(bundle: Path, *modules: str, python: str = sys.executable) -> Key:
    return Key(python, bundle, tuple(sorted(runner_environment({}).items())), modules)


def run(plan: Plan, runners: WarmRunners, key: Key) -> Ended:
    with Launched(replace(plan, fork=lambda lock, log: runners.fork(key, lock, log, NEVER))) as launched:
        return launched.follow(lambda _clock: None)


def parent_of(runners: WarmRunners, key: Key) -> Parent:
    return runners._kept[key].parent


def test_a_forked_runner_sees_what_a_fresh_one_sees(
    plan: MakePlan, tmp_path: Path, runners: WarmRunners, island_bundle: Path
) -> None:
    seen = []
    env = {"INFERFARM_DEVICE": str(tmp_path), "INFERFARM_RUN": "run", "OMP_NUM_THREADS": "1"}
    fixed = tuple(sorted(runner_environment({"OMP_NUM_THREADS": "1"}).items()))
    key = Key(sys.executable, island_bundle, fixed, ("numpy",))
    for start in (FRESH, FORKED):
        control = make_control(tmp_path)
        one = plan(LOOK + "result()", control=control, env=env)
        ended = run(one, runners, key) if start == FORKED else _fresh(one)
        assert ended.started == (start, None)
        assert ended.report is not None, control.log.read_text()
        assert (ended.report.exit_code, control.log.read_text()) == (0, "")
        seen.append(json.loads((control.path / "seen.json").read_text()))
    fresh, forked = seen
    assert {name: value for name, value in forked.items() if value != fresh[name]} == {}
    assert f"INFERFARM_DEVICE={tmp_path}" in forked["marks"]
    assert forked["env"]["TMPDIR"] == forked["tempdir"]


def _fresh(plan: Plan) -> Ended:
    with Launched(plan) as launched:
        return launched.follow(lambda _clock: None)


def test_forks_draw_numbers_of_their_own(
    plan: MakePlan, control: Any, runners: WarmRunners, island_bundle: Path
) -> None:
    script = "import random, uuid, numpy; print(random.random(), numpy.random.rand(), uuid.uuid4())"
    key = key_of(island_bundle, "numpy")
    for _ in range(2):
        run(plan(script), runners, key)
    first, second = (line.split() for line in control.log.read_text().splitlines())
    assert parent_of(runners, key).runs == 2
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_a_forked_runner_collects_no_garbage_of_what_its_parent_imported(
    plan: MakePlan, control: Any, runners: WarmRunners, island_bundle: Path
) -> None:
    """Its own it does collect."""
    script = """
    import gc, weakref
    import numpy
    class Loop: pass
    loop = Loop(); loop.own = loop; gone = weakref.ref(loop); del loop
    left_out = any(one is vars(numpy) for one in gc.get_objects())
    gc.collect()
    print(gc.get_freeze_count() > 10000, left_out, gone() is None)
    """
    run(plan(script), runners, key_of(island_bundle, "numpy"))
    assert control.log.read_text().split() == ["True", "False", "True"]


def test_a_forked_runner_has_the_memory_of_a_fresh_one(
    plan: MakePlan, control: Any, runners: WarmRunners, island_bundle: Path
) -> None:
    script = """
    import numpy, numpy.random
    print([int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(("VmRSS", "VmHWM"))])
    """
    _fresh(plan(script))
    run(plan(script), runners, key_of(island_bundle, "numpy"))
    fresh, forked = map(json.loads, control.log.read_text().splitlines())
    # The forked one has the runner's own modules beside, some 8 MB.
    assert forked == pytest.approx(fresh, abs=14 << 10)
    assert min(forked) > 0.97 * min(fresh)


def test_a_parent_that_dies_takes_no_run_with_it_and_is_made_anew(
    plan: MakePlan, control: Any, runners: WarmRunners, island_bundle: Path
) -> None:
    key, go = key_of(island_bundle), control.path / "go"
    fork = lambda lock, log: runners.fork(key, lock, log, NEVER)  # noqa: E731
    script = "event('stage_start', 'measure')\nwhile not os.path.exists(DIR + '/go'): time.sleep(0.02)\nresult()"
    with Launched(plan(script, fork=fork)) as launched:
        first = parent_of(runners, key).pid
        assert first is not None
        wait_until(lambda: control.events.exists(), "measuring")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not is_alive(first), "end of the parent")
        go.touch()
        ended = launched.follow(lambda _clock: None)
    assert ended.report is not None
    assert (ended.report.exit_code, ended.report.reason) == (0, None)
    assert run(plan("result()"), runners, key).started == (FORKED, None)
    assert parent_of(runners, key).pid != first


def test_a_parent_is_made_anew_after_so_many_runs(
    plan: MakePlan, runners: WarmRunners, island_bundle: Path, settings: Settings
) -> None:
    settings.warm_runs = 2
    key, pids = key_of(island_bundle), []
    for _ in range(4):
        assert run(plan("result()"), runners, key).started.start == FORKED
        pids.append(parent_of(runners, key).pid)
    assert (pids[0], pids[2]) == (pids[1], pids[3])
    assert pids[0] != pids[2]


def test_an_idle_parent_ends_and_the_next_run_gets_another(
    plan: MakePlan, runners: WarmRunners, island_bundle: Path, settings: Settings
) -> None:
    settings.warm_idle_s = 0.2
    key = key_of(island_bundle)
    run(plan("result()"), runners, key)
    first = parent_of(runners, key)
    wait_until(lambda: first.stale(9) == "it has ended", "end of an idle parent")
    settings.warm_idle_s = 600
    assert run(plan("result()"), runners, key).started == (FORKED, None)


def test_a_changed_stack_gets_a_new_parent(
    plan: MakePlan, runners: WarmRunners, island_bundle: Path, stack: Path
) -> None:
    (site(stack) / "library.py").write_text("version = 1")
    key = key_of(island_bundle, "library", python=str(stack / "bin/python"))
    says = "import library; sys.exit(library.version)"
    one = run(plan(says), runners, key)
    first = parent_of(runners, key)
    # As an installer does it: the folder changes with what is in it.
    (site(stack) / "library.py").rename(site(stack) / "old.py")
    (site(stack) / "library.py").write_text("version = 22")
    two = run(plan(says), runners, key)
    assert one.report is not None
    assert two.report is not None
    assert (one.report.exit_code, two.report.exit_code, two.started) == (1, 22, (FORKED, None))
    assert parent_of(runners, key) is not first


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()", "2 threads"),
        ("raise ImportError('no such driver')", "no such driver"),
        ("import os; os._exit(3)", "the parent has ended"),
    ],
)
def test_what_cannot_be_forked_is_started_afresh_and_says_why(
    plan: MakePlan, runners: WarmRunners, island_bundle: Path, stack: Path, content: str, why: str
) -> None:
    (site(stack) / "library.py").write_text(content)
    key = key_of(island_bundle, "library", python=str(stack / "bin/python"))
    for _ in range(MOST_FAILURES + 1):
        ended = run(plan("result()"), runners, key)
        assert ended.report is not None
        assert ended.report.exit_code == 0
        assert ended.started.start == FRESH
        assert why in (ended.started.why or "")
    # It is not tried for ever: the imports of a stack take seconds.
    assert runners._failures[key][0] == MOST_FAILURES


def test_an_open_device_forbids_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent_side, "_threads", lambda: 1)
    assert parent_side.unsafe() is None
    monkeypatch.setattr(parent_side, "_descriptors", lambda: {0: "/dev/null", 7: "/dev/nvidiactl"})
    assert parent_side.unsafe() == "the parent has /dev/nvidiactl open"


def test_a_parent_that_takes_too_much_memory_is_not_kept(
    plan: MakePlan, runners: WarmRunners, island_bundle: Path, settings: Settings
) -> None:
    settings.warm_memory_mib = 1
    started = run(plan("result()"), runners, key_of(island_bundle)).started
    assert started.start == FRESH
    assert "warm_memory_mib" in (started.why or "")
    assert runners._kept == {}


def test_a_waiting_parent_uses_no_processor_time_and_leaves_no_zombie(
    plan: MakePlan, control: Any, runners: WarmRunners, island_bundle: Path
) -> None:
    key = key_of(island_bundle)
    run(plan("result()"), runners, key)
    pid = parent_of(runners, key).pid

    def switches() -> list[str]:
        return [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "ctxt_switches" in line]

    def asleep() -> bool:
        seen = switches()
        NEVER.wait(0.2)
        return switches() == seen

    # The run goes on and ends, and its parent, once it has answered, is not woken by either.
    fork = lambda lock, log: runners.fork(key, lock, log, NEVER)  # noqa: E731
    script = "event('stage_start', 'measure')\nwhile not os.path.exists(DIR + '/go'): time.sleep(0.02)\nresult()"
    with Launched(plan(script, fork=fork)) as launched:
        wait_until(lambda: control.events.exists() and asleep(), "measuring")
        before = switches()
        (control.path / "go").touch()
        launched.follow(lambda _clock: None)
    assert switches() == before
    assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""


def test_only_so_many_parents_are_kept(plan: MakePlan, runners: WarmRunners, island_bundle: Path) -> None:
    keys = [key_of(island_bundle, *modules) for modules in ((), ("json",), ("csv",), ("wave",), ("cmd",))]
    assert len(keys) == MOST_PARENTS + 1
    for key in keys:
        run(plan("result()"), runners, key)
    assert list(runners._kept) == keys[1:]


OWNER = """
import sys, threading
from pathlib import Path
from workers.daemon.warm_parent import Key, Parent
from workers.daemon.launch import runner_environment
parent = Parent(Key(sys.executable, Path(sys.argv[1]), tuple(sorted(runner_environment({}).items())), ()), 600)
parent.start(threading.Event())
print(parent.pid, flush=True)
sys.stdin.read()
"""


def test_the_supervisor_can_be_loaded_by_the_oldest_interpreter_of_a_stack() -> None:
    source = Path(supervise.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    # Without this the annotations, `list[str]`, would be evaluated there.
    assert "from __future__ import annotations" in source


def test_python_3_8_forks_too(plan: MakePlan, control: Any, runners: WarmRunners, island_bundle: Path) -> None:
    key = key_of(island_bundle, python=str(require_python("3.8")))
    ended = run(plan("print(sys.version_info[:2]); result()"), runners, key)
    assert ended.started == (FORKED, None)
    assert ended.report is not None
    assert (ended.report.exit_code, control.log.read_text()) == (0, "(3, 8)\n")


def test_a_parent_does_not_outlive_its_daemon(island_bundle: Path) -> None:
    with subprocess.Popen(
        run_python(OWNER, str(island_bundle)), stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert is_alive(pid)
        owner.kill()
        wait_until(lambda: not is_alive(pid), "end of the parent")


def test_a_job_that_is_given_up_does_not_wait_for_imports(island_bundle: Path, stack: Path) -> None:
    (site(stack) / "library.py").write_text("import time; time.sleep(600)")
    stop = threading.Event()
    parent = Parent(key_of(island_bundle, "library", python=str(stack / "bin/python")), 600)
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(RefusedError, match="given up"):
        parent.start(stop)
    assert parent.pid is not None
    parent.end()
    assert not is_alive(parent.pid)


def test_the_choice() -> None:
    quick = make_job(workflow="pytorch", protocol=PROTOCOLS["quick"])
    nightly = replace(quick, protocol=PROTOCOLS["nightly"])
    assert choose("auto", quick, "cpu", "measure").modules == ("numpy", "torch", "torchvision")
    assert choose("auto", nightly, "cpu", "prepare").modules == ("numpy", "torch", "torchvision")
    assert "several processes" in (choose("auto", nightly, "cpu", "measure").why or "")
    assert choose("always", nightly, "cpu", "measure").why is None
    assert choose("never", quick, "cpu", "measure").why == "warm_runners is never"
    assert "comparison" in (choose("auto", quick, "gpu", "measure").why or "")
    assert choose("auto", quick, "gpu", "prepare").why is None
    assert choose("always", replace(quick, workflow="torch_tensorrt"), "gpu", "measure").modules is None
    assert "profiler" in (choose("always", quick, "cpu", "layers").why or "")
    assert "profiler" in (choose("always", quick, "cpu", "timeline").why or "")
    assert choose("always", replace(quick, workflow="a_plug_in"), "cpu", "measure").modules is None


def test_each_process_of_a_measured_comparison_is_fresh() -> None:
    spec = parse_sweep(
        "name: s\nmodels: [resnet18]\nworkflows: [pytorch]\ndevices: [{kind: cpu}]\nprecisions: [fp32]", "s"
    )
    for turn in turns(spec, spec, 2):
        job = make_job(workflow="pytorch", protocol=PROTOCOLS["quick"], sweep_name=turn.spec.name)
        assert "comparison" in (choose("auto", job, "cpu", "measure").why or "")
        assert choose("always", job, "cpu", "measure").why is None


def test_nothing_that_starts_threads_or_reads_tf32_s_switch_is_imported_ahead() -> None:
    for info in WORKFLOWS.values():
        for kind, preload in info.preload.items():
            assert kind in info.device_kinds
            modules = {*preload.prepare, *preload.measure}
            assert modules <= {"numpy", "torch", "torchvision"}
            if kind == "gpu" and info.name.startswith("onnx"):
                assert "torch" not in modules


@pytest.mark.parametrize(("processes", "expected"), [(1, FORKED), (3, FRESH)])
def test_a_record_says_how_its_runner_was_started(
    bench: Bench, jobs: JobStore, claim: MakeClaim, processes: int, expected: str
) -> None:
    bench.settings.warm_runners = "auto"
    job = fake_job("job", bench.device.device_id, switches={"processes": processes})
    assert Background(bench, jobs, claim(job)).join().startswith("done")
    told = records(bench, job)[1].provenance["runner"]
    assert told["start"] == expected
    assert (told["why"] is None) == (expected == FORKED)


def test_one_stack_may_have_a_setting_of_its_own(bench: Bench, jobs: JobStore, claim: MakeClaim) -> None:
    bench.settings.warm_runners = "always"
    bench.settings.stacks["default"].warm_runners = "never"
    job = fake_job("job", bench.device.device_id)
    assert Background(bench, jobs, claim(job)).join().startswith("done")
    assert records(bench, job)[1].provenance["runner"]["start"] == FRESH
