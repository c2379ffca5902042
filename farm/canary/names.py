# SPDX-License-Identifier: Apache-2.0
"""What tells a canary from other jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farm.contract.job import JobSpec

#: The name of the sweep and of its protocol. Both together: a person's own sweep may have the name, too.
NAME = "canary"


def is_canary(job: JobSpec) -> bool:
    """Whether a job is a canary."""
    return job.sweep_name == NAME and job.protocol.name == NAME


def is_canary_sweep(document: Mapping[str, Any]) -> bool:
    """Whether a stored sweep is a canary."""
    protocol = document.get("protocol")
    return document.get("name") == NAME and isinstance(protocol, dict) and protocol.get("name") == NAME
