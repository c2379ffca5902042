# SPDX-License-Identifier: Apache-2.0
"""What tells a canary from other jobs."""

from __future__ import annotations

from farm.contract.job import JobSpec

#: The name of the sweep and of its protocol. Both together: a person's own sweep may have the name, too.
NAME = "canary"


def is_canary(job: JobSpec) -> bool:
    """Whether a job is a canary."""
    return job.sweep_name == NAME and job.protocol.name == NAME
