# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.chaos --faults 40 [--seed N] [--dir DIR]`: inject faults, print a table; exit code 1: violations."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.farm import ChaosFarm
from tests.chaos.suite import Outcome, Suite
from tests.chaos.table import markdown

_SHOWN = 50


def main() -> int:
    """Run the suite."""
    asked = _arguments()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(10**6)
    base = Path(asked.dir or tempfile.mkdtemp(prefix="chaos-")).absolute()
    # What a farm says when its broker is away is told here by the table.
    logging.getLogger("inferfarm").addHandler(logging.NullHandler())
    began = time.monotonic()
    print(f"seed {seed}, {asked.faults} faults, everything in {base}", flush=True)

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    with ChaosFarm(base) as farm:
        found = Suite(farm, seed, asked.faults, say).run()
    _tell(found, seed, asked.faults, base, time.monotonic() - began)
    return 1 if found.violations else 0


def _tell(found: Outcome, seed: int, faults: int, base: Path, took_s: float) -> None:
    runs = f"{found.runs} runs recorded, {found.executions} runners started"
    print(f"\nseed {seed}: {len(found.done)} faults in {took_s:.0f} s, {runs}\n\n{markdown(found.table)}")
    if found.passed_over:
        print(f"\n{found.passed_over} more found nothing to hurt and were passed over")
    if not found.violations:
        return
    print(f"\n{len(found.violations)} violations:")
    for violation in found.violations[:_SHOWN]:
        at = f"{violation.at_ns / 1e9:.3f} s " if violation.at_ns else ""
        print(f"  {violation.rule}: {at}{violation.text}")
    print(f"schedule: {base / 'schedule.jsonl'}\nlog of what ran: {base / 'executions.jsonl'}; parts' logs beside it")
    print(f"again: make chaos FAULTS={faults} SEED={seed}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=40, help="how many to inject (default 40)")
    parser.add_argument("--seed", type=int, help="of the schedule (default: a new one)")
    parser.add_argument("--dir", help="where to keep the farm and its logs (default: a new one under /tmp)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
