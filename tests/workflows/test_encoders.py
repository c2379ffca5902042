# SPDX-License-Identifier: Apache-2.0
"""Text encoders through every workflow that runs on a CPU: the smallest BERT, one cache, real libraries."""

from __future__ import annotations

import pytest

from farm.contract.catalogue import WORKFLOWS
from farm.contract.job import BatchLadder, ModelSpec
from tests.island.harness import Island, model_job
from workers.workflows.registry import TABLE

pytestmark = pytest.mark.models
TOKENS = 16
TINY = ModelSpec("bert-tiny", "encoder", (TOKENS,))
_CASES = [
    (name, precision)
    for name in sorted(TABLE)
    if "cpu" in WORKFLOWS[name].device_kinds and name != "fake"
    for precision in WORKFLOWS[name].precisions_on("cpu")
]


@pytest.mark.parametrize(("workflow", "precision"), _CASES, ids=["-".join(case) for case in _CASES])
def test_it_runs(shared: Island, workflow: str, precision: str) -> None:
    job = model_job(TINY, workflow, precision, batches=BatchLadder((2,)))
    shared.prepare(job)
    found = shared.measure(job, 2)
    (compared,) = found.mismatch
    print(found.effective, found.metrics, compared)
    assert compared.element_count == 2 * TOKENS * 128
