# SPDX-License-Identifier: Apache-2.0
"""Import OpenVINO without its telemetry."""

import sys
from typing import Any

from workers.workflows.base import require

_TELEMETRY = "openvino_telemetry"


def import_openvino() -> Any:
    """Import openvino so that it sends nothing.

    Its import alone posts an event to Google Analytics and writes an id to the home directory, unless a file there says
    no. Where the package `openvino_telemetry` cannot be imported, OpenVINO falls back to a stub of its own: so it is
    made not importable in this process, whatever the home directory says.

    Raises:
        MissingLibrary: openvino is not installed.
    """
    if "openvino" not in sys.modules:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    return require("openvino")
