# SPDX-License-Identifier: Apache-2.0
"""100,000 jobs on 200 devices: how long it takes to put them into the farm, to look at them, to cancel them.

A real server (the embedded broker) and a real store; no worker, so that what is measured is the controller alone. Each
part runs in a process of its own, so that its peak memory is its own.
    python -m benchmarks.speed.scale [--rounds N] [--jobs N]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from benchmarks.speed.line import Line
from benchmarks.speed.memory import peak_mib
from benchmarks.speed.table import markdown
from farm.api import Farm
from farm.broker.connection import connect
from farm.broker.embedded import EmbeddedBroker
from farm.broker.following import Follower
from farm.broker.register import Register
from farm.contract.catalogue import TORCHVISION_MODELS
from farm.contract.device import Announcement, DeviceInfo, StackInfo
from farm.settings import Settings
from farm.sweep import SweepSpec, parse_sweep

TOPIC = "scale"
JOBS, DEVICES = 100_000, 200
_WORKFLOWS = ("pytorch", "onnxruntime_cpu", "openvino", *(f"{{name: fake, latency_ms: {ms}}}" for ms in range(2, 9)))
_LIBRARIES = {
    "torch": "2.8.0", "torchvision": "0.23.0", "numpy": "2.1.0", "onnx": "1.17.0", "onnxruntime": "1.20.0",
    "openvino": "2025.1.0", "onnxscript": "0.3.0",
}  # fmt: skip
_PASSES = 20


def announcement(index: int) -> Announcement:
    """One of the devices: of four classes, one CPU a host."""
    name = f"lab-{index:03d}-cpu"
    device = DeviceInfo(name, f"cpu-class-{index % 4}", "cpu", f"lab-{index:03d}", "CPU", {"cores": 8})
    return Announcement(device, [StackInfo("default", "/usr/bin/python3", "3.11.7", _LIBRARIES)], "0.1.0", 1)


def sweep(jobs: int, devices: int) -> SweepSpec:
    """A sweep of so many jobs: models x ten ways to run them x every device by its id."""
    models = TORCHVISION_MODELS[: max(jobs // devices // len(_WORKFLOWS), 1)]
    lines = [
        "name: scale",
        "protocol: paper",
        f"models: [{', '.join(models)}]",
        f"workflows: [{', '.join(_WORKFLOWS)}]",
        "precisions: [fp32]",
        "batch: {start: 1, factor: 2, stop: 64}",
        "devices:",
        *(f"  - {{id: {announcement(i).device.device_id}}}" for i in range(devices)),
    ]
    return parse_sweep("\n".join(lines), "scale.yaml")


def submit(farm: Farm, jobs: int) -> dict[str, float]:
    """Expand, match and enqueue."""
    spec = sweep(jobs, DEVICES)
    began = time.perf_counter()
    made = farm.submit(spec)
    took = time.perf_counter() - began
    if made.new != jobs:
        raise SystemExit(f"{made.new} jobs were queued, not {jobs}; refused: {[r.reason for r in made.refusals[:3]]}")
    return {"s": took}


def status(farm: Farm, _jobs: int) -> dict[str, float]:
    """What `farm status` asks for, all of one sweep, and a further look of `farm watch` at it."""
    began = time.perf_counter()
    farm.sweeps()
    farm.waiting()
    took = time.perf_counter() - began
    began = time.perf_counter()
    farm.status("scale")
    jobs_s = time.perf_counter() - began
    began = time.perf_counter()
    farm.status("scale", limit=100)
    first_s = time.perf_counter() - began
    follower = Follower(farm.jobs, farm.find_sweep("scale").sweep_id)
    follower.look()
    began = time.perf_counter()
    follower.look()
    return {"s": took, "jobs_s": jobs_s, "first_s": first_s, "look_s": time.perf_counter() - began}


def schedule(farm: Farm, _jobs: int) -> dict[str, float]:
    """The scheduler: the first tick fills every window; then one that finds nothing to do."""
    from scheduler.main import Scheduler

    client = connect(farm.settings)
    client.set("farm:rebuilt", 1)
    _announce(client)
    made = Scheduler(farm.settings, client, farm.store, lambda _job, _queue, _name: None)
    began = time.perf_counter()
    made.tick()
    first = time.perf_counter() - began
    began, used = time.perf_counter(), time.process_time()
    for _ in range(_PASSES):
        made.tick()
    took, used = time.perf_counter() - began, time.process_time() - used
    return {"first_s": first, "s": took / _PASSES, "cpu_s": used / _PASSES}


def cancel(farm: Farm, jobs: int) -> dict[str, float]:
    """Cancel all of them; what had been handed out already is cancelled with the rest."""
    began = time.perf_counter()
    done = farm.cancel("scale")
    took = time.perf_counter() - began
    if done.at_once != jobs:
        raise SystemExit(f"{done.at_once} jobs were cancelled, not {jobs}")
    return {"s": took}


PARTS: dict[str, Callable[[Farm, int], dict[str, float]]] = {
    "submit": submit, "status": status, "schedule": schedule, "cancel": cancel,
}  # fmt: skip


def _announce(client: redis.Redis) -> None:
    for index in range(DEVICES):
        Register(client).announce(announcement(index))


@contextmanager
def farm_of_devices(home: Path) -> Iterator[tuple[Settings, redis.Redis]]:
    """A broker and a store, with all devices announced."""
    settings = Settings(home=home, lock_dir=home / "locks", canary=False)
    broker = EmbeddedBroker(settings)
    broker.start()
    client = connect(settings)
    try:
        Farm(settings).store.create()
        _announce(client)
        yield settings, client
    finally:
        client.close()
        broker.stop()


def one_round(jobs: int) -> dict[str, float]:
    """All parts, one after the other; figures by name."""
    found: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="farm-scale-") as directory,
        farm_of_devices(Path(directory)) as (settings, client),
    ):
        before = client.info("memory")["used_memory"]
        for part in PARTS:
            told = _part(part, settings.home, jobs)
            found |= {f"{part}.{key}": value for key, value in told.items()}
            if part == "submit":
                found["redis.bytes"] = (client.info("memory")["used_memory"] - before) / jobs
    return found


def _part(part: str, home: Path, jobs: int) -> dict[str, float]:
    argv = [sys.executable, "-m", "benchmarks.speed.scale", "--part", part, "--home", str(home), "--jobs", str(jobs)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        raise SystemExit(f"{part}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _run_part(part: str, home: Path, jobs: int) -> None:
    farm = Farm(Settings(home=home, lock_dir=home / "locks", canary=False))
    told = PARTS[part](farm, jobs)
    told["peak_mib"] = peak_mib()
    print(json.dumps(told))


def measure(rounds: int, jobs: int = JOBS) -> list[Line]:
    """The lines of the table."""
    found = [one_round(jobs) for _ in range(rounds)]
    share = jobs / JOBS

    def line(key: str, what: str, unit: str, limit: float | None = None, note: str = "", scale: float = 1.0) -> Line:
        return Line(TOPIC, what, unit, tuple(row[key] * scale for row in found), limit=limit, note=note)

    many = f"{jobs:,} jobs on {DEVICES} devices"
    return [
        line("submit.s", f"{many}: expand, match and enqueue", "s", 60 * share),
        line("submit.peak_mib", f"{many}: peak memory of the submitting process", "MiB", 500),
        line("redis.bytes", "memory of the server for each waiting job", "bytes", 1024),
        line("status.s", f"{many}: what `farm status` asks for", "s", 1.0),
        line("status.first_s", f"{many}: what `farm status SWEEP` asks for, which shows 100", "s"),
        line("status.jobs_s", f"{many}: all jobs of the sweep, as `farm status SWEEP --limit 0` reads them", "s"),
        line("status.look_s", f"{many}: a further look of `farm watch` at the sweep", "ms", scale=1000),
        line("schedule.first_s", f"{many}: first tick of the scheduler, filling every window of 2", "s"),
        line("schedule.s", f"{many}: a tick that finds nothing to hand out", "ms", scale=1000),
        line("schedule.cpu_s", f"{many}: the scheduler's own CPU time of such a tick", "ms", scale=1000),
        line("schedule.peak_mib", f"{many}: peak memory of the scheduler", "MiB"),
        line("cancel.s", f"{many}: cancel all", "s", 5 * max(share, 0.2)),
    ]


def main() -> None:
    """Print the lines, or measure one part (used by itself)."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--part", choices=sorted(PARTS))
    parser.add_argument("--home", type=Path)
    args = parser.parse_args()
    if args.part:
        _run_part(args.part, args.home, args.jobs)
        return
    print(markdown(measure(args.rounds, args.jobs), {}))


if __name__ == "__main__":
    main()
