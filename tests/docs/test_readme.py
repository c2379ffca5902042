# SPDX-License-Identifier: Apache-2.0
"""The README and the docs, read by somebody new: their commands are run in order, the quickstart for real."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from farm.api import Farm
from farm.contract.outcome import Outcome
from farm.contract.record import Record
from farm.settings import Settings
from farm.sweep import parse_sweep
from tests.docs.tables import ROOT
from tests.e2e.conftest import STACKS

pytestmark = [pytest.mark.long, pytest.mark.models, pytest.mark.timeout(1500)]

README = (ROOT / "README.md").read_text()
PAGES = [README, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)]
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]

#: What the pages say that a command shows, whatever the machine.
_SAYS = {
    "farm explain int8-here:mobilenet_v3_small": (
        "conversions",
        "HardSigmoid",
        "DequantizeLinear",
        "By what the rows do",
    ),
    "farm compare int8-here": ("precision fp32 -> int8", "mobilenet_v2/onnxruntime_cpu b1", "mobilenet_v3_small"),
}


class Newcomer:
    """A person's shell: a directory with the examples, a farm of its own, `farm` on the path."""

    def __init__(self, base: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # A busy machine must not make this test slower than it is.
        quiet = {"idle_wait_s": 0, "suspect_retries": 0}
        self.settings = Settings(home=base / "home", lock_dir=base / "locks", flower_port=port, **quiet)
        self.directory = base / "shell"
        shutil.copytree(ROOT / "examples", self.directory / "examples")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FARM_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        self.environment = kept | self.settings.environment() | {"PATH": path, "FARM_FLOWER_PORT": str(port)}
        self.environment["FARM_STACKS"] = STACKS

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run one line of shell."""
        return subprocess.run(
            command,
            shell=True,
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
        )


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    person = Newcomer(tmp_path_factory.mktemp("newcomer"))
    yield person
    person.type("farm down --now")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_or_the_docs_does_its_work(newcomer: Newcomer, command: str) -> None:
    """In order, in one shell: later commands use what earlier ones left. A placeholder's command is only checked."""
    if "HOST" in command:
        _check_options(newcomer, command)
        return
    done = newcomer.type(command)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for start, words in _SAYS.items():
        if command.startswith(start):
            assert [word for word in words if word not in done.stdout] == []
    if command.startswith("farm run examples/quickstart.yaml"):
        assert "27 of 27 runs ok" in done.stdout
        assert (newcomer.directory / "report/index.html").is_file()


def _check_options(newcomer: Newcomer, command: str) -> None:
    words = re.sub(r"^([A-Z_]+=\S+ )+", "", command).split()
    assert words[0] == "farm"
    told = newcomer.type(f"farm {words[1]} --help").stdout
    assert [word for word in words[2:] if word.startswith("--") and word not in told] == []
    known = (ROOT / "docs/settings.md").read_text()
    assert [name for name in re.findall(r"([A-Z_]+)=", command) if f"`{name}`" not in known] == []


def test_the_quickstart_left_27_records_with_samples_intervals_and_provenance(newcomer: Newcomer) -> None:
    farm = Farm(newcomer.settings)
    records = farm.records("quickstart")
    assert len(records) == 27
    for record in records:
        assert isinstance(record, Record)
        assert record.outcome is Outcome.OK
        samples = farm.samples(record)
        assert samples is not None
        assert len(samples) == record.metrics["sample_count"] >= 30  # type: ignore[operator]
        interval = record.intervals["latency_ms"]
        assert interval.low <= record.metrics["latency_ms"] <= interval.high  # type: ignore[operator]
        for key in ("farm_version", "git_revision", "runner_digest"):
            assert record.provenance[key]
        for key in ("hostname", "cpu_model", "kernel"):
            assert record.host[key]
        assert record.effective["precision"] == record.job.precision
        assert record.mismatch
        if record.job.precision == "fp32":
            assert record.metrics["mismatch_1e-3_pct"] < 1.0  # type: ignore[operator]


def test_nothing_that_was_started_is_left(newcomer: Newcomer) -> None:
    assert newcomer.type("farm down").returncode == 0
    mine = str(newcomer.settings.home).encode()
    left = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name != str(os.getpid()):
            try:
                if mine in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                    left.append((process / "cmdline").read_bytes())
            except OSError:
                continue
    assert left == []


def test_the_readmes_sweep_is_a_sweep(tmp_path: Path) -> None:
    block = next(text for text in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
    sweep = yaml.safe_load(block)
    sweep["models"] = [model for model in sweep["models"] if isinstance(model, str)]
    assert parse_sweep(yaml.safe_dump(sweep), "README.md").name == "my-sweep"


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_a_sweep(example: Path) -> None:
    assert parse_sweep(example.read_text(), str(example), directory=example.parent).name == example.stem


def test_the_python_example_measures_and_prints(newcomer: Newcomer) -> None:
    shell = {name: value for name, value in newcomer.environment.items() if name not in ("FARM_HOME", "FARM_STORE")}
    done = subprocess.run(
        [sys.executable, "examples/python_api.py"],
        cwd=newcomer.directory,
        env=shell,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "resnet18 fake batch 1: 2." in done.stdout
    assert "30 raw samples" in done.stdout
