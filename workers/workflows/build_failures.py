# SPDX-License-Identifier: Apache-2.0
"""Batches of a ladder whose file could not be built: kept by prepare, told to the run that measures them."""

from typing import Any, Callable, Dict, Sequence

from farm.contract.canonical import digest
from workers.workflows.base import Context
from workers.workflows.errors import BuildOutOfMemory, NotPrepared, Unsupported, WorkflowError

_KIND = "build_failure"


class BuildFailures:
    """The failures of one job's ladder; `key` gives the cache key of the file for a batch.

    They are kept for this job and generation alone: a repeat tries to build again.
    """

    def __init__(self, ctx: Context, key: Callable[[int], Dict[str, Any]]) -> None:
        self._ctx, self._key = ctx, key

    def build_all(self, build: Callable[[int], Any]) -> None:
        """Build for every batch in the ladder's order. A later one that fails ends the building, not the job.

        Raises:
            WorkflowError: already the first could not be built.
            Unsupported: any batch is not supported.
        """
        sizes = self._ctx.job.batches.sizes
        for i, size in enumerate(sizes):
            try:
                build(size)
            except Unsupported:
                raise  # No batch would be any better.
            except WorkflowError as error:
                if i == 0:
                    raise
                self._keep(size, error)
                return
            self._ctx.progress((i + 1) / len(sizes))

    def tell(self, batch: int) -> None:
        """Raise what kept prepare from building for this batch: its own failure, or that of a batch before it."""
        sizes: Sequence[int] = self._ctx.job.batches.sizes
        for size in sizes[: sizes.index(batch) + 1] if batch in sizes else ():
            try:
                entry = self._ctx.cached(_KIND, self._failure_key(size), "failure.txt", _never)
            except NotPrepared:
                continue
            facts = entry.facts
            kind = BuildOutOfMemory if facts["out_of_memory"] else WorkflowError
            raise kind(facts["message"], facts["hint"], facts["reference"])

    def _failure_key(self, batch: int) -> Dict[str, Any]:
        job = self._ctx.job
        return {"file": digest(self._key(batch)), "job": job.job_id, "generation": job.generation}

    def _keep(self, batch: int, error: WorkflowError) -> None:
        def write(path: str) -> Dict[str, Any]:
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(error.message)
            return {
                "message": error.message,
                "hint": error.hint,
                "reference": error.reference,
                "out_of_memory": isinstance(error, BuildOutOfMemory),
            }

        self._ctx.cached(_KIND, self._failure_key(batch), "failure.txt", write)


def _never(path: str) -> Dict[str, Any]:
    raise WorkflowError("files are built in prepare only")
