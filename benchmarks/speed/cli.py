# SPDX-License-Identifier: Apache-2.0
"""How long a person waits for a command that does next to nothing, and how much of that is the interpreter itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.speed.line import Line
from benchmarks.speed.one import main
from farm.broker.embedded import EmbeddedBroker
from farm.settings import Settings

LIMIT_MS = 300.0
BARE = ("-c", "pass")


def measure(rounds: int) -> list[Line]:
    """`farm --help`, and `farm status` of a farm without sweeps, whose broker answers on this host."""
    with tempfile.TemporaryDirectory(prefix="inferfarm-cli-") as place, _broker(Path(place)) as home:
        commands = {
            "farm --help": ("-m", "farm.cli.main", "--help"),
            "farm status, no sweeps": ("-m", "farm.cli.main", "--home", str(home), "status"),
        }
        for command in (BARE, *commands.values()):
            _wall_ms(command)  # the file system's cache, and compiled modules
        found: dict[str, list[float]] = {name: [] for name in commands}
        bare: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                bare[name].append(_wall_ms(BARE))
                found[name].append(_wall_ms(command))
    lines = []
    for name in commands:
        lines.append(Line("cli", f"{name}: from start to end", "ms", tuple(found[name]), limit=LIMIT_MS))
        more = Line("cli", f"{name}: against the interpreter", "ms", tuple(found[name]), tuple(bare[name]),
                    "`python -c pass`")  # fmt: skip
        lines.append(more)
    return lines


@contextmanager
def _broker(place: Path) -> Iterator[Path]:
    settings = Settings(home=place / "home", lock_dir=place / "locks")
    server = EmbeddedBroker(settings)
    server.start()
    try:
        yield settings.home
    finally:
        server.stop()


def _wall_ms(command: tuple[str, ...]) -> float:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FARM_")}
    begun = time.perf_counter_ns()
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=kept)
    return (time.perf_counter_ns() - begun) / 1e6


if __name__ == "__main__":
    main(measure, __doc__)
