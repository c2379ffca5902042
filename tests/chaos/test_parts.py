# SPDX-License-Identifier: Apache-2.0
"""The processes that faults are aimed at are found, however the farm has started them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
        _wait(farm, lambda: worker.grandchild() is not None)
        runner, supervisor, grandchild = worker.runner(), worker.supervisor(), worker.grandchild()
        assert runner is not None and supervisor is not None and grandchild is not None
        assert (grandchild.ppid(), runner.ppid()) == (runner.pid, supervisor.pid)
        pool, forked = worker.child(), policy == "always"
        assert pool is not None and (supervisor.ppid() == pool.pid) is not forked
        runner.kill()
        _wait(farm, lambda: not is_alive(grandchild.pid) and not is_alive(supervisor.pid))


def _wait(farm: ChaosFarm, condition: Callable[[], bool]) -> None:
    def look() -> bool:
        farm.keep_alive()
        return condition()

    wait_until(look, "the farm", 120)
