# SPDX-License-Identifier: Apache-2.0
"""Stacks are asked in their own interpreter; one that cannot answer is listed with its problem."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from farm.errors import UsageError
from farm.settings import Settings, StackSettings
from tests.workers.support import marked
from workers.daemon.bundle import Bundle, make_bundle
from workers.daemon.probe import find_device, probe_stack, probe_stacks

ANSWER = """
if sys.argv[1] == "--probe":
    json.dump(dict(name="x", python="y", python_version="3.8.10", libraries={"torch": os.environ["WHICH"]}),
        open(sys.argv[2], "w"))
"""


def bundle_of(tmp_path: Path, script: str) -> Bundle:
    directory = tmp_path / "bundle"
    directory.mkdir()
    head = "import json, os, sys, time, signal, subprocess\n"
    (directory / "__main__.py").write_text(head + script)
    return Bundle(directory, "d")


def test_a_stack_answers_under_its_own_name_with_its_own_environment(tmp_path: Path) -> None:
    stack = StackSettings(python=sys.executable, env={"WHICH": "2.8.0"})
    info = probe_stack("jp5", stack, bundle_of(tmp_path, ANSWER))
    assert (info.name, info.python, info.python_version) == ("jp5", sys.executable, "3.8.10")
    assert info.libraries == {"torch": "2.8.0"}


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("sys.stderr.write('no module named farm'); sys.exit(3)", "exit code 3; it wrote: no module named farm"),
        ("os.kill(os.getpid(), 11)", "killed by signal 11"),
        ("open(sys.argv[2], 'w').write('{')", "cannot be read"),
        ("pass", "cannot be read"),
        ("sys.exit(97)", "older than Python 3.8"),
    ],
)
def test_a_stack_that_cannot_answer_has_a_problem(tmp_path: Path, script: str, problem: str) -> None:
    info = probe_stack("bad", StackSettings(python=sys.executable), bundle_of(tmp_path, script))
    assert problem in info.problems["python"]
    assert info.python_version == ""


def test_a_stack_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    script = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
    stack = StackSettings(python=sys.executable, env={"MARK": str(tmp_path)})
    info = probe_stack("slow", stack, bundle_of(tmp_path, script), limit_s=1.0)
    assert "within 1 s" in info.problems["python"]
    assert marked(f"MARK={tmp_path}") == []


def test_an_interpreter_that_is_not_there_is_a_problem_of_that_stack_alone(tmp_path: Path, settings: Settings) -> None:
    good = StackSettings(python=sys.executable, env={"WHICH": "1"})
    settings.stacks = {"z": good, "gone": StackSettings(python="/nowhere/python")}
    infos = probe_stacks(settings, bundle_of(tmp_path, ANSWER))
    assert [info.name for info in infos] == ["z", "gone"]
    assert infos[0].problems == {}
    assert "/nowhere/python cannot be started: No such file" in infos[1].problems["python"]


def test_a_device_that_this_host_lacks_is_refused_with_those_it_has(settings: Settings) -> None:
    with pytest.raises(UsageError, match=r"no device 'tpu-0'; it has: .*-cpu"):
        find_device(settings, "tpu-0")
    settings.device = "tpu-0"
    with pytest.raises(UsageError):
        find_device(settings)


@pytest.mark.models
def test_this_interpreter_as_a_stack(tmp_path: Path) -> None:
    info = probe_stack("default", StackSettings(python=sys.executable), make_bundle(tmp_path))
    assert info.python_version.startswith("3.")
    assert "numpy" in info.libraries
