# SPDX-License-Identifier: Apache-2.0
"""The processes that faults are aimed at are found, however the farm has started them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from farm.settings import WarmPolicy
from tests.chaos.farm import ChaosFarm
from tests.workers.support import is_alive, wait_until

pytestmark = [pytest.mark.long, pytest.mark.chaos]

SWEEP = """
name: parts
protocol: {{base: quick, warmup_min_iterations: 1, warmup_min_s: 0.0, min_iterations: 400, min_s: 0.0}}
models: [resnet18]
workflows: [{{name: fake, latency_ms: 50, behaviour: grandchild, stage: warm_up}}]
precisions: [fp32]
batch: 1
devices: [{{id: {device}}}]
"""


@pytest.mark.parametrize("policy", ["always", "never"])
def test_a_run_s_processes_are_found(tmp_path: Path, policy: WarmPolicy) -> None:
    with ChaosFarm(tmp_path / "farm", policy) as farm:
        worker = farm.workers[0]
        _wait(farm, farm.online)
        path = tmp_path / "sweep.yaml"
        path.write_text(SWEEP.format(device=worker.device_id))
        farm.api.submit(path)
        runner, supervisor, grandchild = _wait(farm, lambda: _measuring(farm))
        assert (grandchild.ppid(), runner.ppid()) == (runner.pid, supervisor.pid)
        pool, forked = worker.child(), policy == "always"
        assert pool is not None and (supervisor.ppid() == pool.pid) is not forked
        runner.kill()
        _wait(farm, lambda: not is_alive(grandchild.pid) and not is_alive(supervisor.pid))


def _measuring(farm: ChaosFarm) -> tuple[psutil.Process, psutil.Process, psutil.Process] | None:
    """Runner, supervisor and grandchild of the first worker's run, once it is the measuring one."""
    if not any(line.event == "start" and line.run_id.endswith("-b1") for line in [*farm.lines, *farm.read_log()]):
        return None
    worker = farm.workers[0]
    runner, supervisor, grandchild = worker.runner(), worker.supervisor(), worker.grandchild()
    return (runner, supervisor, grandchild) if runner and supervisor and grandchild else None


def _wait(farm: ChaosFarm, condition: Callable[[], object]) -> Any:
    def look() -> object:
        farm.keep_alive()
        return condition()

    return wait_until(look, "the farm", 120)
