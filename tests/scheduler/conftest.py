# SPDX-License-Identifier: Apache-2.0
"""A real server shared by a module's tests and emptied for each; devices, sweeps and a store to go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from farm.broker.connection import connect
from farm.broker.embedded import EmbeddedBroker
from farm.broker.jobs import Claim, JobState, JobStore
from farm.broker.register import DeviceEntry, Register
from farm.contract.device import Announcement, DeviceInfo, StackInfo
from farm.settings import Settings
from farm.store import Store
from farm.sweep import SweepSpec, parse_sweep

FULL = {"torch": "2.8", "torchvision": "0.23", "numpy": "2", "onnx": "1.17", "onnxruntime": "1.20"}


def make_spec(name: str = "tiny", **keys: str) -> SweepSpec:
    """A sweep of the fake workflow, with keys given as YAML."""
    words = {"models": "[resnet18]", "workflows": "[fake]", "precisions": "[fp32]", "batch": "[1, 2]"} | keys
    return parse_sweep("\n".join([f"name: {name}", *(f"{key}: {value}" for key, value in words.items())]), "t")


def announcement(
    device_id: str,
    device_class: str = "cpu-x",
    *,
    kind: str = "cpu",
    libraries: dict[str, str] | None = None,
    **facts: object,
) -> Announcement:
    device = DeviceInfo(device_id, device_class, kind, "box", device_class, {"cores": 4} | facts)
    stacks = [StackInfo("default", "/usr/bin/python3", "3.11.7", FULL if libraries is None else libraries)]
    return Announcement(device, stacks, "0.1.0", 1)


def entry(
    device_id: str,
    device_class: str = "cpu-x",
    *,
    online: bool = True,
    state: str = "ready",
    kind: str = "cpu",
    libraries: dict[str, str] | None = None,
    **facts: object,
) -> DeviceEntry:
    """A device as the register lists it."""
    told = announcement(device_id, device_class, kind=kind, libraries=libraries, **facts)
    return DeviceEntry(told, 1.0, online, state, None)


class Sent:
    """Takes messages where Celery would, and keeps them."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, str]] = []

    def __call__(self, job_id: str, queue: str, name: str) -> None:
        self.messages.append((job_id, queue, name))

    def take(self) -> list[tuple[str, str]]:
        """The (job, device) pairs since the last call."""
        taken = [(job_id, queue.removeprefix("dev.")) for job_id, queue, _ in self.messages]
        self.messages.clear()
        return taken


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    base = tmp_path_factory.mktemp("broker")
    settings = Settings(home=base / "home", lock_dir=base / "locks")
    broker = EmbeddedBroker(settings)
    broker.start()
    connection = connect(settings)
    yield connection
    connection.close()
    broker.stop()


@pytest.fixture
def client(server: redis.Redis) -> redis.Redis:
    """An emptied server."""
    server.flushall()
    return server


@pytest.fixture
def jobs(client: redis.Redis) -> JobStore:
    return JobStore(client)


@pytest.fixture
def register(client: redis.Redis) -> Register:
    return Register(client)


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A new store."""
    made = Store(tmp_path / "store")
    made.create()
    return made


@pytest.fixture
def claim(jobs: JobStore) -> Callable[..., Claim]:
    """Claim a dispatched job as its worker would; with `run`, also start it."""

    def take(job_id: str, device_id: str, *, run: bool = True, lease_s: float = 60) -> Claim:
        made = jobs.claim(job_id, device_id, "worker", lease_s)
        assert isinstance(made, Claim), made
        if run:
            assert jobs.running(made)
        return made

    return take


def states(jobs: JobStore, sweep_id: str) -> list[JobState]:
    return [view.state for view in jobs.sweep_jobs(sweep_id)]
