# SPDX-License-Identifier: Apache-2.0
"""Which way to run a network: what no other way beats, and what fits stated limits. Pure; docs/choosing.md."""

from farm.choice.candidates import candidates_of, worlds_of
from farm.choice.model import AXES, Axis, Candidate, Limits, Reading, Recommendation, Status
from farm.choice.pareto import Front, front
from farm.choice.recommend import recommend

__all__ = [
    "AXES",
    "Axis",
    "Candidate",
    "Front",
    "Limits",
    "Reading",
    "Recommendation",
    "Status",
    "candidates_of",
    "front",
    "recommend",
    "worlds_of",
]
