# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the worker's tests."""

from __future__ import annotations

import platform
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from farm.broker.jobs import Claim, JobStore
from farm.contract.device import StackInfo
from farm.contract.job import JobSpec
from farm.settings import Settings
from farm.store import Store
from tests.workers.support import make_control, write_bundle
from workers.daemon import lock
from workers.daemon.bench import Bench
from workers.daemon.bundle import make_bundle, read_island
from workers.daemon.control import Control
from workers.daemon.launch import Plan, runner_environment
from workers.daemon.probe import cpu_device
from workers.daemon.warm import WarmRunners
from workers.daemon.warm_parent import Key

Launch = Callable[..., Plan]

#: Tests that must hold however a runner is started.
BOTH_WAYS = ("test_launch", "test_execute", "test_processes_run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of isolation twice: with fresh and with forked runners."""
    if "start" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in BOTH_WAYS:
        metafunc.parametrize("start", ["fresh", "forked"], indirect=True)


@pytest.fixture
def start(request: pytest.FixtureRequest) -> str:
    """How runners are started: `fresh` or `forked`."""
    return str(getattr(request, "param", "fresh"))


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmRunners]:
    """Warm parents that the tests of a session share."""
    runners = WarmRunners(Settings(home=tmp_path_factory.mktemp("warm"), warm_runners="always"))
    yield runners
    runners.close()


@pytest.fixture(scope="session")
def island_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The island, installed: what warm parents run."""
    return make_bundle(tmp_path_factory.mktemp("island")).path


@pytest.fixture
def device_lock(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a held device lock."""
    holder = lock.Holder(1, "test", str(tmp_path), 0.0)
    with lock.hold(tmp_path / "locks" / "box-cpu.lock", holder, wait_s=0) as descriptor:
        yield descriptor


@pytest.fixture
def control(tmp_path: Path) -> Control:
    """A prepared control directory."""
    return make_control(tmp_path)


@pytest.fixture
def plan(
    tmp_path: Path, control: Control, device_lock: int, start: str, warm: WarmRunners, island_bundle: Path
) -> Launch:
    """Plan a runner that is a few lines of Python, marked with INFERFARM_DEVICE=TMP_PATH."""

    def make(script: str, **more: object) -> Plan:
        fields: dict[str, object] = {
            "python": sys.executable,
            "bundle": write_bundle(tmp_path / "bundle", script),
            "control": control,
            "env": {"INFERFARM_DEVICE": str(tmp_path)},
            "limits_s": {"default": 30.0},
            "lock_fd": device_lock,
            "grace_s": 0.5,
        }
        if start == "forked":
            python, env = str(more.get("python", sys.executable)), tuple(sorted(runner_environment({}).items()))
            key, stop = Key(python, island_bundle, env, ()), threading.Event()
            fields["fork"] = lambda lock_fd, log_fd: warm.fork(key, lock_fd, log_fd, stop)
        return Plan(**{**fields, **more})  # type: ignore[arg-type]

    return make


@pytest.fixture
def bench(settings: Settings, start: str) -> Iterator[Bench]:
    """What a worker brings, with a store of its own and this interpreter as its stack."""
    settings.lease_s = 9.0
    settings.warm_runners = "always" if start == "forked" else "never"
    store = Store(settings.store_dir)
    store.create()
    device = cpu_device(settings)
    stacks = [StackInfo("default", sys.executable, platform.python_version())]
    island = read_island()
    parents = WarmRunners(settings)
    yield Bench(settings, device, stacks, island, store, {"runner_digest": island.digest}, warm=parents)
    parents.close()


@pytest.fixture
def jobs(client: redis.Redis) -> JobStore:
    """The job states, in a real server."""
    return JobStore(client)


@pytest.fixture
def claim(jobs: JobStore, bench: Bench) -> Callable[[JobSpec], Claim]:
    """Submit, dispatch and claim a job for the bench's device."""

    def do(job: JobSpec) -> Claim:
        jobs.submit(job.sweep_id, job.sweep_name, 5, [job])
        assert jobs.dispatch(job.job_id, bench.device.device_id)
        found = jobs.claim(job.job_id, bench.device.device_id, "test", bench.settings.lease_s)
        assert isinstance(found, Claim)
        return found

    return do
