# SPDX-License-Identifier: Apache-2.0
"""One topic in this process: `python -m benchmarks.speed.one TOPIC --rounds N --json FILE`; and a topic's `main`."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.speed.line import Line
from benchmarks.speed.table import as_json, markdown

ROUNDS = 5


def main(measure: Callable[[int], list[Line]], doc: str | None = None) -> None:
    """What a topic's module does when it is run: `--rounds N`, and the table of its lines."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    print(markdown(measure(parser.parse_args().rounds), {}))


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("topic")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    lines = importlib.import_module(f"benchmarks.speed.{given.topic}").measure(given.rounds)
    given.json.write_text(json.dumps(as_json(lines)))


if __name__ == "__main__":
    _main()
