# SPDX-License-Identifier: Apache-2.0
"""A whole farm on this machine: real broker, scheduler, Celery worker and runners; the fake workflow is the load."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from farm.api import Farm
from farm.local import LocalFarm
from farm.settings import Settings

#: FARM_STACKS: this interpreter, with threads that do not spin while others need the processors.
STACKS = json.dumps({"default": {"python": sys.executable, "env": {"OMP_WAIT_POLICY": "PASSIVE"}}})

SWEEP = """
name: {name}
protocol: {{base: quick, warmup_min_iterations: 1, warmup_min_s: 0.0, min_iterations: 10, min_s: 0.0}}
models: [resnet18]
workflows: [{{name: fake{options}}}]
precisions: [{precisions}]
batch: [{batch}]
"""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A running farm, shared by a module's tests."""
    base = tmp_path_factory.mktemp("farm")
    settings = Settings(home=base / "home", lock_dir=base / "locks", lease_s=30, idle_wait_s=0, suspect_retries=0)
    with LocalFarm(settings):
        yield Farm(settings)


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Path]:
    """Write a small sweep of the fake workflow; keyword arguments are its options."""

    def write(name: str, *, batch: str = "1, 2", precisions: str = "fp32", **options: object) -> Path:
        path = tmp_path / f"{name}.yaml"
        words = "".join(f", {key}: {value}" for key, value in options.items())
        path.write_text(SWEEP.format(name=name, batch=batch, precisions=precisions, options=words))
        return path

    return write


def wait_for(condition: Callable[[], object], what: str, limit_s: float = 180) -> object:
    """Return the first true value of `condition()`; fail naming `what` when there is none in time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail(f"{what}: not within {limit_s} s")


def processes_with(tag: str) -> list[int]:
    """Processes that carry `tag` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if tag.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
