# SPDX-License-Identifier: Apache-2.0
"""The raw trace as a small file for the store: gzip, the same bytes for the same trace."""

from __future__ import annotations

import gzip
from pathlib import Path


def pack(path: Path) -> Path | None:
    """Compress a trace beside itself; None where it is gone."""
    target = path.with_name(path.name + ".gz")
    try:
        target.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    except OSError:
        return None
    return target
