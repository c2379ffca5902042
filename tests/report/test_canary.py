# SPDX-License-Identifier: Apache-2.0
"""What a report says of a device whose canary had shifted, and what of the canaries themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from farm.api import Farm
from farm.contract.job import BatchLadder
from farm.contract.record import Flag, Record
from farm.report.narrative import summarise
from farm.report.select import select
from farm.settings import Settings
from tests.compare.stored import put, sweep
from tests.factories import make_job, make_record

WHY = "the device's canary has shifted since 2026-03-01 04:10: 11 ms against 10 ms; it was last steady on 2026-02-28"


def marked(batch: int, evidence: str, minute: int) -> Record:
    job = make_job(batches=BatchLadder((1, 2)))
    at = f"2026-03-01T10:{minute:02}:00.000000+00:00"
    return make_record(
        job=job, batch_size=batch, finished_at=at, flags=[Flag("canary_shift", "suspect", evidence)], ladder_stop=None
    )


def test_the_summary_names_the_device_and_the_last_evidence_once() -> None:
    said = [s.text for s in summarise(select([marked(1, "earlier", 0), marked(2, WHY, 1)], [])) if s.kind == "doubt"]
    assert said.count(f"box-cpu: {WHY}.") == 1
    assert not any("earlier" in text for text in said)


@pytest.mark.parametrize(("sweeps", "canaries"), [((), 0), (("canary",), 1)])
def test_canaries_are_in_a_report_that_names_them_and_not_in_that_of_everything(
    settings: Settings, tmp_path: Path, sweeps: tuple[str, ...], canaries: int
) -> None:
    farm = Farm(settings)
    put(farm, sweep("a"), 8.0)
    own = sweep("canary")
    put(farm, own.model_copy(update={"protocol": replace(own.protocol, name="canary")}), 5.0)
    files = farm.report(*sweeps, out_dir=tmp_path / "out")
    text = Path(files.markdown).read_text()
    assert ("protocol canary" in text) == bool(canaries)
