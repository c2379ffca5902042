#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the farm itself costs: every topic of benchmarks/speed, each in a fresh process, as one table.

    python benchmarks/run.py [--only TOPIC ...] [--rounds N] [--json FILE] [--write PAGE] [--against BEFORE.json]
                             [--beside FILE.json ...]

A topic is a module of benchmarks/speed with `measure(rounds) -> list[Line]`; nothing else has to be told of it.
`--write docs/performance.md` puts the table between the page's markers, with the date, the machine, the command and
the versions; `--beside` adds topics that an earlier `--json` has, of the same machine. `--against` judges the ratios
against those of an earlier `--json`, as `farm compare` judges two sides. Ends with 1 where a limit is not held, a topic
could not be measured, or something got worse; with 2 on bad usage.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.speed import against  # noqa: E402 - found by the line above
from benchmarks.speed.line import Line  # noqa: E402
from benchmarks.speed.one import ROUNDS  # noqa: E402
from benchmarks.speed.table import as_json, markdown, of_json, replaced  # noqa: E402

SPEED = ROOT / "benchmarks/speed"
LIBRARIES = (
    "inferfarm", "celery", "redis", "duckdb", "pydantic", "torch", "torchvision", "onnxruntime", "optimum-benchmark",
)  # fmt: skip


@dataclass
class Found:
    """What a run of the benchmarks gave. `failed`: topics that could not be measured, and why."""

    lines: list[Line] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether all was measured, and every limit is held."""
        return not self.failed and all(line.held is not False for line in self.lines)


def topics(directory: Path = SPEED) -> list[str]:
    """The modules that define `measure`, by name. Read, not imported: a topic may import much."""
    return [path.stem for path in sorted(directory.glob("*.py")) if _measures(path)]


def _measures(path: Path) -> bool:
    body = ast.parse(path.read_text()).body
    return any(isinstance(each, ast.FunctionDef) and each.name == "measure" for each in body)


def chosen(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """The topics to run. Raises ValueError for one that there is not."""
    if unknown := sorted(set(only) - set(names)):
        raise ValueError(f"no topic {', '.join(unknown)}; there are {', '.join(names)}")
    return [name for name in names if not only or name in only]


def run(names: Sequence[str], rounds: int) -> Found:
    """Measure each topic in a process of its own, one after the other."""
    found = Found()
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="inferfarm-speed-") as place:
            file = Path(place) / "lines.json"
            command = [sys.executable, "-m", "benchmarks.speed.one", name, "--rounds", str(rounds), "--json", str(file)]
            told = subprocess.run(
                command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, stdout=sys.stderr, text=True, check=False
            )
            if told.returncode:
                print(told.stderr, file=sys.stderr)
                found.failed[name] = (told.stderr.strip().splitlines() or [f"ended with {told.returncode}"])[-1]
            else:
                found.lines += of_json(json.loads(file.read_text()))
    return found


def environment() -> dict[str, str]:
    """This process's variables, less what would have every process of the farm compile its modules anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def about() -> dict[str, str]:
    """When, where and with what: what a reader of the figures must know of them."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    revision = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        "revision": revision,
        "versions": f"Python {platform.python_version()}, " + ", ".join(f"{k} {v}" for k, v in versions.items()),
    }


def _processor() -> str:
    names = (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name"))  # fmt: skip
    return next(names, platform.machine())


def section(lines: list[Line], failed: dict[str, str], made: Sequence[tuple[dict[str, str], str]]) -> str:
    """What stands between the markers of the page. `made`: of each run of the benchmarks its facts and its command."""
    facts = made[0][0]
    head = [f"Measured on {facts['machine']}; {facts['versions']}.", ""]
    head += [f"- {about['date']}, revision {about['revision']}: `{command}`" for about, command in made]
    return "\n".join(head) + "\n\n" + markdown(sorted(lines, key=lambda line: line.topic), failed)


def command_of(rounds: int, only: Sequence[str]) -> str:
    """What a person types for this."""
    return f"python benchmarks/run.py --rounds {rounds}" + "".join(f" --only {name}" for name in only)


def others(files: Sequence[Path], found: Found, machine: str) -> tuple[list[Line], list[tuple[dict[str, str], str]]]:
    """The lines of topics that earlier runs measured and this one did not, with what made them.

    Raises:
        ValueError: a file is none of `--json`, or of another machine.
    """
    lines, made = list[Line](), list[tuple[dict[str, str], str]]()
    known = {line.topic for line in found.lines} | set(found.failed)
    for file in files:
        try:
            document = json.loads(file.read_text())
            facts, own = document["about"], of_json(document["lines"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} has no figures of --json: {error}") from error
        if facts["machine"] != machine:
            raise ValueError(f"{file} was made on another machine: {facts['machine']}, and this is {machine}")
        added = [line for line in own if line.topic not in known]
        known |= {line.topic for line in added}
        lines += added
        made.append((facts, command_of(document["rounds"], sorted({line.topic for line in added}))))
    return lines, made


def compared(before: Path, found: Found, threshold: float) -> bool:
    """Print the verdicts against an earlier run; whether nothing got worse."""
    document: dict[str, Any] = json.loads(before.read_text())
    old = of_json(document["lines"])
    cells = against.judged(old, found.lines, threshold)
    print(f"\nAgainst {before.name}, of {document['about']['date']} ({document['about']['revision']}):\n")
    print(against.table(cells))
    print("\n".join(against.alone(old, found.lines)))
    return not any(cell.verdict.is_alarm for cell in cells)


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], metavar="TOPIC", help="may be given several times")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each line (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the table between this page's markers")
    parser.add_argument(
        "--beside",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="with --write: a file of --json, for topics not measured now; may be given several times",
    )
    parser.add_argument("--against", type=Path, metavar="BEFORE", help="a file of --json, to judge the ratios against")
    parser.add_argument("--threshold", type=float, default=100 * against.THRESHOLD, metavar="PERCENT",
                        help="a change of less is none (default %(default)g)")  # fmt: skip
    given = parser.parse_args(argv)
    if given.rounds < 1:
        parser.error("--rounds: at least 1")
    if not 0 < given.threshold < 100:
        parser.error("--threshold: more than 0 and less than 100")
    try:
        given.topics = chosen(topics(), given.only)
        if given.write:
            replaced(given.write.read_text(), "")
        others(given.beside, Found(), about()["machine"])
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    given = parsed(argv)
    found, facts = run(given.topics, given.rounds), about()
    print(markdown(found.lines, found.failed))
    well = found.held
    if given.json:
        document = {"about": facts, "rounds": given.rounds, "failed": found.failed, "lines": as_json(found.lines)}
        given.json.write_text(json.dumps(document, indent=1) + "\n")
    if given.write:
        lines, made = others(given.beside, found, facts["machine"])
        made = [(facts, command_of(given.rounds, given.only)), *made]
        text = section([*found.lines, *lines], found.failed, made)
        given.write.write_text(replaced(given.write.read_text(), text))
    if given.against:
        well = compared(given.against, found, given.threshold / 100) and well
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
