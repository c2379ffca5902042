# SPDX-License-Identifier: Apache-2.0
"""How much of a model is in TensorRT's engines, and how much the framework around them runs."""

from dataclasses import dataclass
from typing import Any, Dict, Tuple

_MOST_NAMES = 20


@dataclass(frozen=True)
class Partition:
    """Engines, operators of the whole graph, and those that the framework runs, by name."""

    engines: int
    total: int
    left: Tuple[str, ...]

    def share_left(self) -> float:
        """Of the graph's operators, the share outside of the engines."""
        return len(self.left) / self.total if self.total else 0.0

    def facts(self, framework: str) -> Dict[str, Any]:
        """As plain JSON, with the first names of what is left to the `framework`, such as `pytorch`."""
        return {
            "engines": self.engines,
            "operators_total": self.total,
            "operators_in_engines": self.total - len(self.left),
            "operators_in_" + framework: len(self.left),
            "left_in_" + framework: list(self.left[:_MOST_NAMES]),
        }
