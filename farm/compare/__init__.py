# SPDX-License-Identifier: Apache-2.0
"""Is one thing faster than another? Records in, verdicts out; docs/comparing.md has the rules for people."""

from farm.compare.comparison import compare
from farm.compare.model import Cell, Comparison, Difference, LeftOut, Process, Ratio, Rules, Side, Verdict

__all__ = [
    "Cell",
    "Comparison",
    "Difference",
    "LeftOut",
    "Process",
    "Ratio",
    "Rules",
    "Side",
    "Verdict",
    "compare",
]
