# SPDX-License-Identifier: Apache-2.0
"""Batches of a ladder that could not be built: prepare notes the first, measuring tells of it.

It ends the building, not the job: smaller batches are measured. Notes are for one job and generation alone, so that a
repeat builds again.
"""

from typing import Any, Callable, Dict, List, Optional

from farm.contract.canonical import digest
from workers.workflows.base import Context
from workers.workflows.cache import Build, CachedFile
from workers.workflows.errors import BuildOutOfMemory, NotPrepared, Unsupported, WorkflowError

_KIND = "build_failure"
_NAME = "failure.txt"


class BuildFailures:
    """Those of one job. `batches` gives the batches to build, in order, and `key` the cache key of what one builds."""

    def __init__(self, ctx: Context, batches: Callable[[], List[int]], key: Callable[[int], Dict[str, Any]]) -> None:
        self._ctx, self._batches, self._key = ctx, batches, key

    def build_all(self, build: Callable[[int], Any]) -> None:
        """Build each batch in turn, to the first that fails.

        Raises:
            WorkflowError: already the first failed.
            Unsupported: any batch is not supported.
        """
        batches = self._batches()
        for i, batch in enumerate(batches):
            try:
                build(batch)
            except Unsupported:
                raise  # No batch would be any better.
            except WorkflowError as error:
                if i == 0:
                    raise
                self._note(batch, error)
                return
            self._ctx.progress((i + 1) / len(batches))

    def fetch(
        self,
        batch: int,
        kind: str,
        name: str,
        build: Build,
        ready: Optional[Callable[[], Any]] = None,
        upstream_s: Optional[Callable[[], float]] = None,
    ) -> CachedFile:
        """`Context.cached` for what a batch builds.

        Raises:
            WorkflowError: what kept prepare from building it, where it is not there.
        """
        try:
            return self._ctx.cached(kind, self._key(batch), name, build, ready, upstream_s)
        except NotPrepared:
            self._tell(batch)
            raise

    def _tell(self, batch: int) -> None:
        """Raise what kept prepare from building `batch`: its own failure, or that of a batch before it."""
        for size in self._batches():
            try:
                facts = self._ctx.cached(_KIND, self._note_key(size), _NAME, _never).facts
            except NotPrepared:
                if size == batch:
                    return
                continue
            kind = BuildOutOfMemory if facts["out_of_memory"] else WorkflowError
            error = kind(facts["message"], facts["hint"], facts["reference"])
            error.stage = "build"
            raise error

    def _note_key(self, batch: int) -> Dict[str, Any]:
        job = self._ctx.job
        return {"built": digest(self._key(batch)), "job": job.job_id, "generation": job.generation}

    def _note(self, batch: int, error: WorkflowError) -> None:
        def write(path: str) -> Dict[str, Any]:
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(error.message)
            return {
                "message": error.message,
                "hint": error.hint,
                "reference": error.reference,
                "out_of_memory": isinstance(error, BuildOutOfMemory),
            }

        self._ctx.cached(_KIND, self._note_key(batch), _NAME, write)


def _never(path: str) -> Dict[str, Any]:
    raise WorkflowError("engines are built in prepare only")
