# SPDX-License-Identifier: Apache-2.0
"""What the commands for GPU hosts share: stacks from the command line, the farm's settings, what to keep."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Stack = tuple[str, str, dict[str, str]]

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


def stack_settings(text: str, home: Path) -> Stack:
    """`NAME=PYTHON[,ENVFILE]` as a name, an interpreter and its variables."""
    name, _, rest = text.partition("=")
    python, _, env_file = rest.partition(",")
    if not name or not python:
        sys.exit(f"--stack {text}: write NAME=PYTHON or NAME=PYTHON,ENVFILE")
    variables = sourced(Path(env_file)) if env_file else {}
    found = isolated(name, Path(python), variables, home)
    return name, str(found), {k: v for k, v in variables.items() if k not in _PYTHON_PATHS}


def write_settings(home: Path, stacks: list[Stack], more: Sequence[str] = ()) -> None:
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
