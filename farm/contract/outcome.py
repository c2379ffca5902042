# SPDX-License-Identifier: Apache-2.0
"""How a run ended: exactly one outcome, and, unless it is `ok`, one failure that says what, where and what to do."""

import enum
from dataclasses import dataclass
from typing import Optional


class Outcome(str, enum.Enum):
    """The closed set of ways in which a run ends."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    CONTAMINATED = "contaminated"
    CANCELLED = "cancelled"
    LOST = "lost"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Failure:
    """Why a run is not `ok`.

    `reference` is a stable kebab-case key (`provider-fell-back`), listed in docs/troubleshooting.md.
    `detail` holds a traceback or the end of a log; people read `message` and `hint` first.
    """

    stage: str
    reference: str
    message: str
    hint: Optional[str] = None
    detail: Optional[str] = None
