# SPDX-License-Identifier: Apache-2.0
"""The page of what is inside of a store's runs: a part for each sweep that has one, figures beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.store import Store
from tests.benchmarks.conftest import ROOT
from tests.report import demo
from tests.report.test_concurrency import contexts


@pytest.fixture
def script(load_script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks/gpu")
    return load_script("gpu/inside.py")


def test_each_sweep_has_its_parts_and_its_figures(script: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.create()
    for number, name in enumerate(("first", "second")):
        for point in contexts().points:
            record = point.record
            assert not isinstance(record, str)
            job = replace(record.job, sweep_name=name, job_id=f"{number}{record.job.job_id[1:]}")
            store.records.write(replace(record, job=job, run_id=f"{number}{record.run_id[1:]}", samples=[]))
    page = tmp_path / "inside.md"
    script.main([str(store.root), "-o", str(page), "--title", "Seen"])
    text = page.read_text()
    assert text.startswith("# Seen\n\nMade from the records by:\n\n    python benchmarks/gpu/inside.py STORE...")
    assert text.count("### Saturation") == 2
    for name in ("first", "second"):
        assert f"## {name}: concurrency" in text
        assert f"](inside/{name}-concurrency.png)" in text
        assert (tmp_path / f"inside/{name}-concurrency.png").read_bytes().startswith(b"\x89PNG")


def test_a_store_without_any_is_refused(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "store")
    store.create()
    store.records.write(replace(demo.ok(demo.job(), 1), samples=[]))
    with pytest.raises(SystemExit):
        script.main([str(store.root), "-o", str(tmp_path / "page.md")])
    assert "was profiled" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
