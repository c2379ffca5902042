# SPDX-License-Identifier: Apache-2.0
"""Batches that ran out of memory while they were built: prepare notes the first, measuring tells of it.

A batch that does not fit ends the building, not the job: smaller batches are measured. The note is in the cache, for
this job and generation alone, so that `farm retry` builds again.
"""

from typing import Any, Callable, Dict, List

from workers.workflows.base import Context
from workers.workflows.errors import BuildOutOfMemory, NotPrepared, WorkflowError

_KIND = "engine_failure"
_NAME = "failure.txt"


def build_all(ctx: Context, batches: List[int], build: Callable[[int], Any], key: Callable[[int], str]) -> None:
    """Build each batch in turn. `key` gives the digest of what a batch's build depends on.

    Raises:
        BuildOutOfMemory: already the first did not fit.
    """
    for i, batch in enumerate(batches):
        try:
            build(batch)
        except BuildOutOfMemory as error:
            if i == 0:
                raise
            _note(ctx, key(batch), error.message)
            return
        ctx.progress((i + 1) / len(batches))


def tell(ctx: Context, batches: List[int], batch: int, key: Callable[[int], str]) -> None:
    """Raise BuildOutOfMemory where `batch`, or a smaller one of the ladder, was noted."""
    for size in batches:
        try:
            entry = ctx.cached(_KIND, _key(ctx, key(size)), _NAME, _never)
        except NotPrepared:
            if size == batch:
                return
            continue
        error = BuildOutOfMemory(entry.facts["message"], "Use a smaller batch, or a device with more memory.")
        error.stage = "build"
        raise error


def _note(ctx: Context, key: str, message: str) -> None:
    def write(path: str) -> Dict[str, Any]:
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(message)
        return {"message": message}

    ctx.cached(_KIND, _key(ctx, key), _NAME, write)


def _key(ctx: Context, key: str) -> Dict[str, Any]:
    return {"engine": key, "job": ctx.job.job_id, "generation": ctx.job.generation}


def _never(path: str) -> Dict[str, Any]:
    raise WorkflowError("engines are built in prepare only")
