# SPDX-License-Identifier: Apache-2.0
"""The table of workflows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from farm.contract.catalogue import WORKFLOWS
from workers.workflows.base import Workflow
from workers.workflows.errors import Unsupported
from workers.workflows.registry import TABLE, workflow_class


def test_the_table_has_the_workflows_of_the_catalogue() -> None:
    assert set(TABLE) == set(WORKFLOWS)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_row_names_a_workflow_with_its_whole_interface(name: str) -> None:
    found = workflow_class(name)
    assert issubclass(found, Workflow)
    assert found.__doc__
    for method in ("load", "to_device", "infer", "outputs", "effective", "engine_bytes"):
        assert getattr(found, method) is not getattr(Workflow, method), method


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(Unsupported, match="abacus") as caught:
        workflow_class("abacus")
    assert all(name in (caught.value.hint or "") for name in TABLE)


def test_looking_a_workflow_up_imports_no_library() -> None:
    code = (
        "import sys; from workers.workflows.registry import TABLE, workflow_class\n"
        "[workflow_class(name) for name in TABLE]\n"
        "print(sorted({'numpy', 'torch', 'onnx', 'onnxruntime', 'openvino', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
