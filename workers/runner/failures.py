# SPDX-License-Identifier: Apache-2.0
"""From an exception to exactly one outcome, with what, where and what to do."""

import traceback
from typing import Optional, Tuple

from farm.contract.codec import DecodeError
from farm.contract.outcome import Failure, Outcome
from workers.workflows.errors import MissingLibrary, WorkflowError, is_out_of_memory

_MOST_DETAIL = 16000
_MOST_MESSAGE = 2000


def explain(error: BaseException, stage: str) -> Tuple[Outcome, Failure]:
    """The outcome of a run that `error` ended in `stage`. The traceback's end is the failure's detail."""
    outcome, reference, message, hint = _kind(error)
    if isinstance(error, WorkflowError) and error.stage is not None:
        stage = error.stage
    detail = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return outcome, Failure(stage, reference, message[:_MOST_MESSAGE], hint, detail[-_MOST_DETAIL:])


def _kind(error: BaseException) -> Tuple[Outcome, str, str, Optional[str]]:
    if isinstance(error, WorkflowError):
        return error.outcome, error.reference, error.message, error.hint
    if is_out_of_memory(error):
        return (
            Outcome.OUT_OF_MEMORY,
            "out-of-memory",
            "memory ran out: {}".format(_text(error)),
            "Use a smaller batch, or a device with more memory.",
        )
    if isinstance(error, DecodeError):
        return Outcome.FAILED, "bad-request", "request.json is not a run request: {}".format(error), _SKEW
    if isinstance(error, ModuleNotFoundError):
        missing = MissingLibrary("")
        return missing.outcome, missing.reference, "this stack has no {}".format(error.name), _INSTALL
    return (
        Outcome.FAILED,
        "unexpected-error",
        "{}: {}".format(type(error).__name__, _text(error)),
        "The traceback is in the failure's detail and the run's log has what the libraries printed.",
    )


_SKEW = "The worker and the scheduler are of different versions: update both."
_INSTALL = "Install it into the stack's interpreter, or give the job to a stack that has it (`farm devices`)."


def _text(error: BaseException) -> str:
    return str(error).strip() or "no message"
