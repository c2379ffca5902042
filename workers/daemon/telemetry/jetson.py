# SPDX-License-Identifier: Apache-2.0
"""A Jetson as channels, beside those of its processors."""

from __future__ import annotations

from typing import Any

from workers.daemon.jetson import Jetson, total_w
from workers.daemon.telemetry.channels import EACH, ENDS, Channel


def channels(board: Jetson) -> list[Channel]:
    """What is asked of a run's board."""
    return [
        Channel("soc_load", EACH, lambda: {"util": board.load()}),
        Channel("soc_clock", EACH, lambda: {"sm_mhz": board.gpu_mhz()}),
        Channel("soc_temperature", EACH, board.temperatures_c),
        Channel("soc_power", EACH, lambda: _power(board)),
        Channel("soc_memory", EACH, lambda: {"memory_available": board.memory_available()}),
        Channel("soc_settings", ENDS, lambda: {f"set:{name}": value for name, value in board.settings().items()}),
    ]


def facts(board: Jetson) -> dict[str, Any]:
    """Which rails the power is of."""
    found = total_w(board.rails_w())
    return {"power_rail": found[1] if found else None, "gpu_max_mhz": board.gpu_max_mhz()}


def _power(board: Jetson) -> dict[str, Any]:
    rails = board.rails_w()
    # A sum over fewer rails than there are would pass for the whole.
    total = total_w(rails) if len(rails) == len(board.rails) else None
    return {"rails_w": rails or None, "board_w": total[0] if total else None}
