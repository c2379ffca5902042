# SPDX-License-Identifier: Apache-2.0
"""What a sweep's jobs save by what earlier jobs prepared: weights, exported models, references, engines.

Each round measures one sweep twice on a farm of its own: once with an empty cache, once more with what that left.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from benchmarks.speed.line import Line
from benchmarks.speed.one import main
from farm.api import Farm
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.settings import Settings

MODELS = ("squeezenet1_1", "resnet18")
WORKFLOWS = ("pytorch", "onnxruntime_cpu", "openvino")
SWEEP = """
name: caches
protocol: quick
models: [{models}]
workflows: [{workflows}]
precisions: [fp32]
batch: [1]
"""


def measure(rounds: int) -> list[Line]:
    """Preparation and wall clock of a sweep, with what an earlier one prepared against without."""
    found = [_round() for _ in range(rounds)]
    cold, warm, exports = zip(*found, strict=True)
    jobs = len(MODELS) * len(WORKFLOWS)
    of = f"{jobs} jobs ({len(MODELS)} models, {len(WORKFLOWS)} workflows)"
    return [
        Line("caches", f"preparing {of}: all in the cache", "s", tuple(each[0] for each in warm),
             tuple(each[0] for each in cold), "an empty cache"),
        Line("caches", f"the whole sweep of {of}: all in the cache", "s", tuple(each[1] for each in warm),
             tuple(each[1] for each in cold), "an empty cache"),
        Line("caches", f"ONNX exports of {of}, with an empty cache", "files", exports,
             (float(len(MODELS)),) * rounds, "one a model", limit=1.0),
    ]  # fmt: skip


def _round() -> tuple[tuple[float, float], tuple[float, float], float]:
    """(preparation, wall clock) in seconds of both sweeps, and how many models were exported."""
    with tempfile.TemporaryDirectory(prefix="inferfarm-caches-") as place:
        home = Path(place) / "home"
        sweep = Path(place) / "sweep.yaml"
        sweep.write_text(SWEEP.format(models=", ".join(MODELS), workflows=", ".join(WORKFLOWS)))
        farm = Farm(Settings(home=home, lock_dir=Path(place) / "locks", canary=False, idle_wait_s=0))
        cold, warm = _measured(farm, sweep), _measured(farm, sweep)
        manifests = [json.loads(path.read_text()) for path in (home / "cache/prepared/onnx").glob("*/manifest.json")]
    return cold, warm, float(len(manifests))


def _measured(farm: Farm, sweep: Path) -> tuple[float, float]:
    begun = time.perf_counter()
    submission = farm.run(sweep, again=True)
    wall = time.perf_counter() - begun
    jobs: dict[str, float] = {}
    for record in farm.records(submission.sweep_id):
        if not isinstance(record, Record) or record.outcome is not Outcome.OK:
            raise SystemExit(f"a run was not ok: {record}")
        jobs[record.job.job_id] = sum(stage.end_ns - stage.start_ns for stage in record.prepare_stages) / 1e9
    return sum(jobs.values()), wall


if __name__ == "__main__":
    main(measure, __doc__)
