# SPDX-License-Identifier: Apache-2.0
"""Devices, stacks and hosts as workers announce them and as records keep them."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional


@dataclass(frozen=True)
class DeviceInfo:
    """One piece of hardware that runs jobs.

    `facts` are what selectors match on and reports show: `compute_capability`, `memory_bytes`, `cores`, ...
    What could not be read is absent, never 0.
    """

    device_id: str
    device_class: str
    kind: str  # "cpu" | "gpu" | "soc"
    host: str
    name: str
    facts: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StackInfo:
    """One Python interpreter with its libraries, as probed from inside that interpreter.

    `libraries` maps an importable module to its version. `problems` maps a module that is installed but cannot
    be imported to the error it gave.
    """

    name: str
    python: str
    python_version: str
    libraries: Dict[str, str] = field(default_factory=dict)
    problems: Dict[str, str] = field(default_factory=dict)
    features: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Announcement:
    """What a worker writes to the device register when it starts and on each heartbeat."""

    device: DeviceInfo
    stacks: List[StackInfo]
    farm_version: str
    pid: int
    state: str = "ready"  # "ready" | "drained" | "maintenance" | "quarantined"
    reason: Optional[str] = None
