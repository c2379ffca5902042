# SPDX-License-Identifier: Apache-2.0
"""The packed stack comes back whole on the other host, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.skipif(shutil.which("zstd") is None, reason="packing needs zstd")
def test_parts_come_back_whole_and_a_damaged_one_is_refused(load_script: Callable[[str], Any], tmp_path: Path) -> None:
    script, stack, out = load_script("gpu/pack_tensorflow.py"), tmp_path / "stack", tmp_path / "out"
    for name in ("python/bin/python3.10", "site/library.so", "site/nvidia/x/include/x.h"):
        (stack / name).parent.mkdir(parents=True, exist_ok=True)
        (stack / name).write_bytes(os.urandom(5000))
    (stack / "env.sh").write_text(script.ENV_SH)
    script.prune(stack / "site", script.UNUSED)
    parts = script.pack(stack, out, 2500)
    manifest = script.describe(out, parts, script.PACKAGES, "3.10.13")
    assert len(parts) >= 4
    assert max(part.stat().st_size for part in parts) <= 2500
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert manifest["size_bytes"] == sum(part.stat().st_size for part in parts)
    subprocess.run([out / "unpack.sh", tmp_path / "back"], check=True, timeout=120)
    assert (tmp_path / "back/site/library.so").read_bytes() == (stack / "site/library.so").read_bytes()
    assert not (tmp_path / "back/site/nvidia/x/include").exists()
    parts[1].write_bytes(b"damaged")
    done = subprocess.run([out / "unpack.sh", tmp_path / "other"], check=False, timeout=120, capture_output=True)
    assert done.returncode != 0
    assert not any((tmp_path / "other").iterdir())
