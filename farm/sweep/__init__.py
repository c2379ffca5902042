# SPDX-License-Identifier: Apache-2.0
"""Sweeps: from a YAML file to a `SweepSpec`, or to every mistake in it."""

from farm.sweep.document import json_schema
from farm.sweep.load import load_sweep, parse_sweep
from farm.sweep.spec import Exclusion, SweepSpec, WorkflowChoice

__all__ = ["Exclusion", "SweepSpec", "WorkflowChoice", "json_schema", "load_sweep", "parse_sweep"]
