# SPDX-License-Identifier: Apache-2.0
"""What a workflow raises when it cannot do what was asked. Each kind has one outcome and one stable reference.

WorkflowError                failed       workflow-failed
  Unsupported                unsupported  unsupported
    MissingLibrary           unsupported  missing-library
    GraphNotCaptured         unsupported  cuda-graph-not-captured
  DamagedModel               failed       damaged-model
  InputShapeMismatch         failed       input-shape-mismatch
  ProviderFellBack           failed       provider-fell-back
  PrecisionNotHeld           failed       precision-not-held
  SettingNotHeld             failed       setting-not-held
  NotPrepared                failed       not-prepared
  PinRefused                 failed       pin-refused
  WeightsUnavailable         failed       weights-unavailable
  DataUnavailable            failed       data-unavailable
  ParserFailed               failed       parser-failed
  OutputsNotFinite           failed       nonfinite-outputs
  BuildOutOfMemory           out_of_memory out-of-memory-build
"""

# ruff: noqa: N818 - the names say what is the matter, as the references do

from typing import Optional

from farm.contract.outcome import Outcome

#: How allocators of C++ libraries word the same event, in lower case.
_OUT_OF_MEMORY_TEXTS = (
    "defaultcpuallocator",
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "out of memory",
    "cannot allocate memory",
    "not enough memory",
    "status_alloc_failed",
    "cudaerrormemoryallocation",
    "outofmemory",
)


class WorkflowError(Exception):
    """The root. `hint` says what to do about it; `reference` is the kebab-case key of docs/troubleshooting.md.

    `stage` is the stage in which it went wrong, where that is another than the one in which this is raised.
    """

    outcome = Outcome.FAILED
    reference = "workflow-failed"
    stage: Optional[str] = None

    def __init__(self, message: str, hint: Optional[str] = None, reference: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reference = reference or type(self).reference


class Unsupported(WorkflowError):
    """This combination cannot run, here or anywhere: the farm records it as an answer."""

    outcome = Outcome.UNSUPPORTED
    reference = "unsupported"


class MissingLibrary(Unsupported):
    """A library that the workflow needs is not in this interpreter."""

    reference = "missing-library"


class GraphNotCaptured(Unsupported):
    """A CUDA graph was asked for and could not be had: what would run without one is another variant."""

    reference = "cuda-graph-not-captured"


class DamagedModel(WorkflowError):
    """A model file is not what its digest or its format says."""

    reference = "damaged-model"


class InputShapeMismatch(WorkflowError):
    """A model file's input does not take the shape that the sweep gives."""

    reference = "input-shape-mismatch"


class ProviderFellBack(WorkflowError):
    """The library silently chose another provider than the one asked for."""

    reference = "provider-fell-back"


class PrecisionNotHeld(WorkflowError):
    """What was loaded does not run in the precision asked for."""

    reference = "precision-not-held"


class SettingNotHeld(WorkflowError):
    """The library did not take a setting of the protocol, such as the number of threads."""

    reference = "setting-not-held"


class NotPrepared(WorkflowError):
    """Measuring found no prepared file: it never prepares by itself."""

    reference = "not-prepared"


class PinRefused(WorkflowError):
    """The job names a prepared file that is not for what it runs here."""

    reference = "pin-refused"


class WeightsUnavailable(WorkflowError):
    """A model's weights could not be had."""

    reference = "weights-unavailable"


class DataUnavailable(WorkflowError):
    """The data set that a job needs is not there, or not what the job needs."""

    reference = "data-unavailable"


class ParserFailed(WorkflowError):
    """TensorRT's parser does not take an ONNX file for what is in it, other than an unsupported operator."""

    reference = "parser-failed"


class OutputsNotFinite(WorkflowError):
    """What was measured gave NaN or infinities: however fast it is, it is not the model."""

    reference = "nonfinite-outputs"


class BuildOutOfMemory(WorkflowError):
    """Memory ran out while an engine was built: told apart from loading it and running it."""

    outcome = Outcome.OUT_OF_MEMORY
    reference = "out-of-memory-build"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, whichever allocator says so."""
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
        return True
    if not isinstance(error, (RuntimeError, OSError)) and not _is_onnxruntime(error):
        return False
    text = str(error).lower()
    return any(words in text for words in _OUT_OF_MEMORY_TEXTS)


def _is_onnxruntime(error: BaseException) -> bool:
    return type(error).__module__.startswith("onnxruntime")
