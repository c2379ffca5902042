#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measure sweeps on this host's GPUs with a farm of its own, and leave the store and a table to take away.

    python benchmarks/gpu/run.py --home DIR --stack trt=/path/python,/path/env.sh --out DIR [SWEEP.yaml...]

Starts an embedded broker, a scheduler and a worker for each GPU; submits the sweeps, waits, stops what it started. OUT
gets store.tar.gz, results.csv, summary.json and the parts' logs, also when something fails or the time is up. A stack
is NAME=PYTHON[,ENVFILE]; the first that can run a workflow is taken. ENVFILE is sourced by bash. Runners start in
Python's isolated mode, which ignores PYTHONHOME and PYTHONPATH: such a stack gets a virtual environment under HOME that
has the same paths. Run it again with the same HOME and it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

from gpu_host import choose_devices, stack_settings, take_away, write_settings  # noqa: E402


def show_canaries(farm: Any, count: int) -> None:
    """Make canaries on every device, one after another, and print what each said."""
    from farm.errors import FarmError

    for _ in range(count):
        try:
            for entry in farm.canary():
                print(f"canary of {entry.device_id}: {entry.canary}", flush=True)
        except FarmError as error:
            print(f"canary: {error.message}", flush=True)


def measure(farm: Any, devices: list[str], sweeps: list[Path], limit_s: float, canaries: int = 0) -> None:
    """Submit all sweeps at once, so that no device waits for another; what runs when the time is up is left."""
    from farm.errors import UnavailableError
    from farm.local import LocalFarm

    end = time.monotonic() + limit_s
    with LocalFarm(farm.settings, say=print, devices=devices) as local:
        for entry in farm.devices()[:1]:
            for stack in entry.announcement.stacks:
                print(f"stack {stack.name}: {stack.python_version} {stack.libraries} {stack.problems} {stack.features}")
        show_canaries(farm, canaries)
        submissions = []
        for path in sweeps:
            submission = farm.submit(path)
            print(f"{path.name}: sweep {submission.sweep_id}, {submission.total} jobs", flush=True)
            submissions.append(submission)
        for submission in submissions:
            try:
                for _ in farm.watch(submission.sweep_id, interval_s=2.0, limit_s=max(1.0, end - time.monotonic())):
                    pass
            except UnavailableError as error:
                print(f"{submission.sweep_id}: {error.message}", flush=True)
                local.stop(at_once=True)
                return


def main() -> None:
    """Parse, measure, take away."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="*", type=Path, help="default: all of benchmarks/gpu/sweeps")
    parser.add_argument("--home", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--stack", required=True, action="append", help="NAME=PYTHON[,ENVFILE]; may be repeated")
    parser.add_argument("--device", action="append", default=[], help="a device's id; default: every GPU of this host")
    parser.add_argument("--blobs-up-to", type=int, metavar="BYTES", help="leave larger blobs out of store.tar.gz")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a farm setting, as TOML")
    parser.add_argument("--canaries", type=int, default=0, metavar="N", help="make N on each device first")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="stop measuring after so long")
    options = parser.parse_args()
    home = options.home.absolute()
    write_settings(home, [stack_settings(text, home) for text in options.stack], options.set)
    from farm.api import Farm

    farm = Farm()
    devices = choose_devices(farm.settings, options.device)
    farm.store.create()
    sweeps = options.sweeps or sorted((ROOT / "benchmarks/gpu/sweeps").glob("*.yaml"))
    try:
        measure(farm, devices, sweeps, options.limit_s, options.canaries)
    finally:
        take_away(farm, home, options.out.absolute(), options.blobs_up_to)


if __name__ == "__main__":
    main()
