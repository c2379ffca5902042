# SPDX-License-Identifier: Apache-2.0
"""What a command waits for before it does anything: the libraries that it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from farm.broker.embedded import EmbeddedBroker
from farm.settings import Settings
from farm.store import Store

#: Prints what was imported and how often all objects were looked through for garbage, last, on a line of its own.
_CODE = """
import gc, json, sys
from farm.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps([sorted(sys.modules), gc.get_stats()[2]["collections"], gc.get_freeze_count()]))
"""
#: What redis and pydantic bring: the broker is asked, and every command reads the settings.
_SETTINGS = {
    "pydantic", "pydantic_core", "pydantic_settings", "annotated_types", "typing_extensions", "typing_inspection",
    "dotenv",
}  # fmt: skip
_ALLOWED = {"--help": {"click"}, "status": {"click", "redis", "rich", *_SETTINGS}}


def run(*args: str) -> tuple[set[str], int, int]:
    done = subprocess.run([sys.executable, "-c", _CODE, *args], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    modules, passes, frozen = json.loads(done.stdout.splitlines()[-1])
    return set(modules), passes, frozen


def imported(*args: str) -> set[str]:
    return run(*args)[0]


def foreign(modules: set[str]) -> set[str]:
    """The libraries among them, by their own top names: neither the standard library's nor the farm's."""
    tops = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"farm", "__main__"}
    # What an installation in place, and packages without a directory of their own, bring to every interpreter.
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(' '.join(sys.modules))"], capture_output=True, text=True, timeout=60
    )
    tops = {name for name in tops if not name.startswith("_")}
    return tops - {name.partition(".")[0] for name in before.stdout.split()}


def test_help_imports_click_alone() -> None:
    modules = imported("--help")
    assert foreign(modules) <= _ALLOWED["--help"]
    assert {name for name in modules if name.startswith("farm.")} <= {
        "farm.cli", "farm.cli.main", "farm.cli.common", "farm.errors", "farm.secrets", "farm.contract",
        "farm.contract.canonical",
    }  # fmt: skip


@pytest.mark.usefixtures("broker")
def test_status_imports_what_asking_the_broker_takes(settings: Settings, broker: EmbeddedBroker) -> None:
    os.environ["FARM_LOCK_DIR"] = str(settings.lock_dir)
    try:
        modules, passes, frozen = run("--home", str(settings.home), "status")
    finally:
        del os.environ["FARM_LOCK_DIR"]
    assert foreign(modules) <= _ALLOWED["status"]
    # These bring DuckDB, YAML and the models of a whole sweep.
    assert not {"farm.store", "farm.sweep", "farm.compare", "farm.report", "farm.retrying"} & modules
    # The verdicts of canaries are read, not made.
    assert not {"farm.canary.judge", "farm.canary.series"} & modules
    assert passes == 0
    assert frozen > 0


def test_results_are_read_without_what_asks_the_broker(tmp_path: Path) -> None:
    Store(tmp_path / "store").create()
    modules = imported("--home", str(tmp_path), "results", "--format", "csv")
    assert "redis" not in foreign(modules)
    assert "duckdb" in modules
