#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does a process that starts on the GPU during a run turn its record invalid? One long point, alone and disturbed.

    python benchmarks/gpu/foreign.py --home DIR --stack trt=/path/python,/path/env.sh --out DIR [--device ID]

Measures resnet18, fp16, batch 32 with `pytorch` for 20 s twice with a farm of its own on one GPU: first alone; then,
once the live progress says that the timed stage has begun, a foreign process (torch, in the stack's interpreter) puts
work on the same GPU until the run is over. No second tries, so that each record is the first. Alone there must be no
flag `foreign_process` and an energy from the counter; disturbed it must be there as `invalid`, with a process that was
at work within the timed stage. Prints both records' telemetry; the exit code is 1 if anything is not as it should be.
Nothing is fetched from a network. Stacks are given as for run.py, and OUT gets the same files.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

from gpu_host import Stack, choose_devices, stack_settings, take_away, write_settings  # noqa: E402

SWEEP = """
name: gpu-{name}
protocol: {{base: quick, warmup_min_s: 1, min_s: 20, max_s: 40, max_iterations: 1000000, threads: 8}}
models: [resnet18]
workflows: [pytorch]
precisions: [fp16]
batch: [32]
devices: [{{id: {device}}}]
"""
#: Channels without which a record of this kind of board could not be judged.
CHANNELS = ("clock_sm", "energy", "event_reasons", "memory_v1", "power_fields", "processes", "utilisation")
METRICS = (
    *("latency_ms", "sample_count", "energy_per_input_j", "energy_trace_per_input_j", "gpu_power_w"),
    *("gpu_clock_sm_mhz", "gpu_temperature_c", "gpu_utilisation", "gpu_throttled_share", "cpu_wait_share"),
)
#: Waits for a line, then works on the GPU until its standard input ends. Says when its first work was done, by the
#: clock that records use. torch is imported before: that takes seconds, and leaves the GPU alone.
FOREIGN = """
import select, sys, time
import torch
if not sys.stdin.readline():
    sys.exit("it was never told to begin: the timed stage was not seen to")
matrix = torch.rand(1024, 1024, device="cuda")
torch.cuda.synchronize()
print(time.monotonic_ns(), flush=True)
while not select.select([sys.stdin], [], [], 0.01)[0]:
    matrix @ matrix
    torch.cuda.synchronize()
"""
#: The board's list of processes is read once a second, so the last moments of a stage may not show one.
SEEN_WITHIN_NS = 3_000_000_000


class Foreign:
    """A process of somebody else, on the GPU from `begin` to `end`."""

    def __init__(self, python: str, variables: dict[str, str], code: str = FOREIGN) -> None:
        self._process = subprocess.Popen(
            [python, "-I", "-c", code],
            env=os.environ | variables,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._begun = False

    def begin(self) -> None:
        """Have it put work on the GPU; once is enough. One that has died already says so at the end."""
        if not self._begun and self._process.stdin is not None:
            self._begun = True
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write("\n")
                self._process.stdin.flush()

    def end(self) -> tuple[int | None, str]:
        """End it; return when it was at work (CLOCK_MONOTONIC, ns; None: never) and what it complained of."""
        try:
            out, err = self._process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
        return (int(out) if out.strip().isdigit() else None), err[-2000:]


def flags_of(record: Any) -> dict[str, str]:
    """Levels of a record's flags by their names."""
    return {flag.name: flag.level for flag in record.flags}


def problems_alone(record: Any) -> list[str]:
    """What is not as it should be in the record of an undisturbed run."""
    if str(record.outcome) != "ok":
        return [f"alone: the run was {record.outcome}: {record.failure and record.failure.message}"]
    found = [f"alone: flag {name}" for name in ("foreign_process", "settings_changed") if name in flags_of(record)]
    told = record.provenance.get("telemetry", {}).get("channels", ())
    found += [f"alone: no telemetry of {name}" for name in CHANNELS if name not in told]
    if not record.metrics.get("energy_per_input_j"):
        found.append(f"alone: no energy: {record.withheld.get('energy_per_input_j', 'and no reason given')}")
    return found


def problems_disturbed(record: Any, at_work_ns: int | None) -> list[str]:
    """What is not as it should be in the record of a run that a foreign process started beside at `at_work_ns`."""
    if str(record.outcome) != "ok":
        return [f"disturbed: the run was {record.outcome}: {record.failure and record.failure.message}"]
    found = []
    (stage,) = (stage for stage in record.stages if stage.name == "measure")
    if at_work_ns is None or not stage.start_ns <= at_work_ns <= stage.end_ns - SEEN_WITHIN_NS:
        found.append("disturbed: the foreign process was not at work early enough within the timed stage")
    if flags_of(record).get("foreign_process") != "invalid":
        found.append(f"disturbed: flag foreign_process is {flags_of(record).get('foreign_process', 'absent')}")
    if "settings_changed" in flags_of(record):
        found.append("disturbed: flag settings_changed")
    return found


def told(name: str, record: Any) -> Iterator[str]:
    """A record's telemetry in lines."""
    yield f"{name}: {record.outcome}"
    for flag in record.flags:
        yield f"  flag {flag.name} ({flag.level}): {flag.evidence}"
    for metric in METRICS:
        yield f"  {metric}: {record.metrics.get(metric)}"
    own, trace = (record.metrics.get(f"energy_{part}per_input_j") for part in ("", "trace_"))
    yield f"  energy counter over integrated power: {own / trace:.3f}" if own and trace else "  energy: not told twice"
    for key, value in sorted(record.provenance.get("telemetry", {}).items()):
        yield f"  telemetry.{key}: {value}"


def measured(farm: Any, name: str, device: str, foreign: Foreign | None) -> Any:
    """The record of one run; `foreign` begins when its timed stage has begun."""
    from farm.sweep import parse_sweep

    submission = farm.submit(parse_sweep(SWEEP.format(name=name, device=device), "benchmarks/gpu/foreign.py"))
    for progress in farm.watch(submission.sweep_id, limit_s=900):
        if foreign is not None and any(job.stage == "measure" for job in progress.running):
            foreign.begin()
    (record,) = farm.records(submission.sweep_id)
    return record


def check(farm: Any, device: str, uuid: str, stack: Stack) -> list[str]:
    """Measure both and tell; return what is not as it should be."""
    from farm.local import LocalFarm

    with LocalFarm(farm.settings, say=print, devices=[device]):
        alone = measured(farm, "alone", device, None)
        print(*told("alone", alone), sep="\n", flush=True)
        foreign = Foreign(stack[1], stack[2] | {"CUDA_VISIBLE_DEVICES": uuid})
        try:
            disturbed = measured(farm, "disturbed", device, foreign)
        finally:
            at_work_ns, complaint = foreign.end()
    print(*told("disturbed", disturbed), sep="\n")
    found = [*problems_alone(alone), *problems_disturbed(disturbed, at_work_ns)]
    return [*found, f"the foreign process said: {complaint}"] if found and complaint.strip() else found


def main() -> int:
    """Parse, measure, judge, take away."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", required=True, type=Path, help="an empty folder: what it holds is not measured again")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--stack", required=True, help="NAME=PYTHON[,ENVFILE], with torch")
    parser.add_argument("--device", action="append", default=[], help="a device's id; default: the host's first GPU")
    given = parser.parse_args()
    home = given.home.absolute()
    stack = stack_settings(given.stack, home)
    # A second try would put its own record over the disturbed one.
    write_settings(home, [stack], ["suspect_retries = 0"])
    from farm.api import Farm
    from workers.daemon.probe import devices

    farm = Farm()
    chosen = choose_devices(farm.settings, given.device)[0]
    uuid = next(device.facts["uuid"] for device in devices(farm.settings) if device.device_id == chosen)
    farm.store.create()
    problems = ["it did not get to the end"]
    with contextlib.ExitStack() as after:
        after.callback(take_away, farm, home, given.out.absolute(), None)
        problems = check(farm, chosen, uuid, stack)
    print(*(problems or ["as it should be: alone sound, disturbed invalid"]), sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
