# SPDX-License-Identifier: Apache-2.0
"""Every exception becomes one outcome."""

from __future__ import annotations

import errno

import pytest

from farm.contract.codec import DecodeError
from farm.contract.outcome import Outcome
from workers.runner.failures import explain
from workers.workflows import errors


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


@pytest.mark.parametrize(
    ("error", "outcome", "reference"),
    [
        (MemoryError(), Outcome.OUT_OF_MEMORY, "out-of-memory"),
        (OutOfMemoryError("CUDA"), Outcome.OUT_OF_MEMORY, "out-of-memory"),
        (RuntimeError("std::bad_alloc"), Outcome.OUT_OF_MEMORY, "out-of-memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Outcome.OUT_OF_MEMORY, "out-of-memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Outcome.OUT_OF_MEMORY, "out-of-memory"),
        (ValueError("out of memory is mentioned here"), Outcome.FAILED, "unexpected-error"),
        (RuntimeError("shapes differ"), Outcome.FAILED, "unexpected-error"),
        (DecodeError(["missing key 'x' @ $"]), Outcome.FAILED, "bad-request"),
        (ModuleNotFoundError("no", name="tensorrt"), Outcome.UNSUPPORTED, "missing-library"),
        (SystemExit(3), Outcome.FAILED, "unexpected-error"),
        (errors.Unsupported("no", "do"), Outcome.UNSUPPORTED, "unsupported"),
        (errors.Unsupported("no", "do", "fixed-batch"), Outcome.UNSUPPORTED, "fixed-batch"),
        (errors.DamagedModel("bad"), Outcome.FAILED, "damaged-model"),
        (errors.ProviderFellBack("other"), Outcome.FAILED, "provider-fell-back"),
        (errors.NotPrepared("none"), Outcome.FAILED, "not-prepared"),
    ],
)
def test_an_exception_has_one_outcome_and_one_reference(error: BaseException, outcome: Outcome, reference: str) -> None:
    found, failure = explain(error, "build")
    assert (found, failure.reference, failure.stage) == (outcome, reference, "build")
    assert failure.message


def test_a_very_long_traceback_keeps_its_end() -> None:
    _, failure = explain(ValueError("x" * 100_000 + "the end"), "build")
    assert failure.detail is not None
    assert len(failure.detail) <= 16_000
    assert failure.detail.rstrip().endswith("the end")
    assert len(failure.message) <= 2_000


def test_the_tree_has_the_references_that_its_docstring_lists() -> None:
    kinds = [errors.WorkflowError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    for kind in kinds:
        row = f"{kind.__name__} {kind.outcome} {kind.reference}"
        assert row in " ".join((errors.__doc__ or "").split()), row
