# SPDX-License-Identifier: Apache-2.0
"""Where does the time go, and why is one run faster than another? Layer tables in, findings out. Pure."""

from farm.explain.difference import Difference, Group, compare_layers
from farm.explain.kinds import Kind, by_kind, by_precision
from farm.explain.model import Profiled, Total, outside_tensorrt, top, total_of

__all__ = [
    "Difference",
    "Group",
    "Kind",
    "Profiled",
    "Total",
    "by_kind",
    "by_precision",
    "compare_layers",
    "outside_tensorrt",
    "top",
    "total_of",
]
