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
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

_PYTHON_PATHS = ("PYTHONHOME", "PYTHONPATH")
_NOT_A_STACKS = ("PWD", "OLDPWD", "SHLVL", "_", "BASH_FUNC")


def sourced(env_file: Path) -> dict[str, str]:
    """The variables that a shell file sets or changes."""
    bare = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    done = subprocess.run(
        ["bash", "-c", 'set -a; . "$1"; env -0', "bash", str(env_file)], env=bare, capture_output=True, check=True
    )
    pairs = (item.partition("=") for item in done.stdout.decode().split("\0") if item)
    return {k: v for k, _, v in pairs if bare.get(k) != v and not k.startswith(_NOT_A_STACKS)}


def isolated(name: str, python: Path, variables: dict[str, str], home: Path) -> Path:
    """An interpreter that finds in isolated mode what `python` finds with PYTHONHOME and PYTHONPATH."""
    paths = [part for part in variables.get("PYTHONPATH", "").split(os.pathsep) if part]
    if not paths:
        return python
    target = home / "stacks" / name
    shutil.rmtree(target, ignore_errors=True)
    make = [python, "-m", "venv", "--without-pip", "--symlinks", target]
    subprocess.run(make, env=os.environ | variables, check=True)
    (site,) = target.glob("lib/python3*/site-packages")
    (site / "stack.pth").write_text("".join(f"{path}\n" for path in paths))
    return target / "bin" / "python"


def stack_settings(text: str, home: Path) -> tuple[str, str, dict[str, str]]:
    """`NAME=PYTHON[,ENVFILE]` as a name, an interpreter and its variables."""
    name, _, rest = text.partition("=")
    python, _, env_file = rest.partition(",")
    if not name or not python:
        sys.exit(f"--stack {text}: write NAME=PYTHON or NAME=PYTHON,ENVFILE")
    variables = sourced(Path(env_file)) if env_file else {}
    found = isolated(name, Path(python), variables, home)
    return name, str(found), {k: v for k, v in variables.items() if k not in _PYTHON_PATHS}


def write_settings(home: Path, stacks: list[tuple[str, str, dict[str, str]]], more: list[str]) -> None:
    """The farm's settings file, for this process and every part; FARM_CONFIG names it. `more`: lines of TOML."""
    lines = [f"home = {json.dumps(str(home))}", f"lock_dir = {json.dumps(str(home / 'locks'))}", *more]
    for name, python, variables in stacks:
        lines += [f"[stacks.{json.dumps(name)}]", f"python = {json.dumps(python)}"]
        lines += [f"[stacks.{json.dumps(name)}.env]", *(f"{k} = {json.dumps(v)}" for k, v in variables.items())]
    home.mkdir(parents=True, exist_ok=True)
    (home / "farm.toml").write_text("\n".join(lines) + "\n")
    os.environ["FARM_CONFIG"] = str(home / "farm.toml")


def choose_devices(settings: Any, wanted: list[str]) -> list[str]:
    """The devices named, else all of this host's GPUs."""
    from farm.errors import UsageError
    from workers.daemon.probe import devices, named_devices

    try:
        chosen = named_devices(settings, wanted or ["gpus"])
    except UsageError as error:
        sys.exit(f"{error.message} (is nvidia-ml-py installed?)")
    for device in devices(settings):
        if device.device_id in chosen:
            print(json.dumps({"device": device.device_id, "class": device.device_class, **device.facts}))
    return chosen


def measure(farm: Any, devices: list[str], sweeps: list[Path], limit_s: float) -> None:
    """Submit all sweeps at once, so that no device waits for another; what runs when the time is up is left."""
    from farm.errors import UnavailableError
    from farm.local import LocalFarm

    end = time.monotonic() + limit_s
    with LocalFarm(farm.settings, say=print, devices=devices) as local:
        for entry in farm.devices()[:1]:
            for stack in entry.announcement.stacks:
                print(f"stack {stack.name}: {stack.python_version} {stack.libraries} {stack.problems} {stack.features}")
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


def take_away(farm: Any, home: Path, out: Path, most_bytes: int | None) -> None:
    """Write what outlives this host; blobs over `most_bytes` stay behind, their digests are in the records."""
    out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, int] = {}
    for record in farm.records():
        outcome = str(getattr(record, "outcome", "unreadable"))
        summary[outcome] = summary.get(outcome, 0) + 1
        failure = getattr(record, "failure", None)
        if failure is not None:
            print(f"{record.job.name} b{record.batch_size}: {outcome} {failure.stage} {failure.reference}: "
                  f"{failure.message[:300]}")  # fmt: skip
    farm.results().write(out / "results.csv", "csv")
    (out / "summary.json").write_text(json.dumps(summary) + "\n")
    with tarfile.open(out / "store.tar.gz", "w:gz", compresslevel=6) as archive:
        archive.add(farm.settings.store_dir, "store", filter=lambda found: found if _kept(found, most_bytes) else None)
    for log in (home / "run").glob("*.log"):
        shutil.copy(log, out)
    print(json.dumps(summary))


def _kept(member: tarfile.TarInfo, most_bytes: int | None) -> bool:
    is_large = most_bytes is not None and member.isfile() and member.size > most_bytes
    return not member.name.startswith("store/index") and not is_large


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
        measure(farm, devices, sweeps, options.limit_s)
    finally:
        take_away(farm, home, options.out.absolute(), options.blobs_up_to)


if __name__ == "__main__":
    main()
