# SPDX-License-Identifier: Apache-2.0
"""TensorRT's own int8 calibration (up to version 10): its calibrators, fed by the farm, and the table they make."""

from typing import Any, Iterator, Optional

from workers.workflows.errors import WorkflowError
from workers.workflows.trt_compat import calibrator_base
from workers.workflows.trt_memory import Memory


def make_calibrator(
    trt: Any, method: str, batch: int, table: Optional[bytes], batches: Iterator[Any], memory: Optional[Memory]
) -> Any:
    """A calibrator that either gives `table`, or goes through `batches` and keeps the table that TensorRT makes.

    With a table no data is ever asked for: a TensorRT that does not accept the table fails instead of calibrating
    anew on nothing. The table made is in the attribute `table`.
    """
    base: Any = calibrator_base(trt, method)

    class Calibrator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.table = table
            self.asked = 0
            self._address = 0
            self._staged: Any = None

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: Any, *_more: Any) -> Any:
            """The address of the next batch; None at the end. TensorRT swallows exceptions raised here."""
            self.asked += 1
            found = None if memory is None else next(batches, None)
            if found is None or memory is None:
                return None
            if self._staged is None:
                self._staged = memory.pinned(found.shape, "float32")
                self._address = memory.allocate(found.nbytes)
            self._staged[...] = found
            memory.to_device(self._address, self._staged)
            memory.synchronize()
            return [self._address]

        def read_calibration_cache(self) -> Optional[bytes]:
            return self.table

        def write_calibration_cache(self, made: Any) -> None:
            self.table = bytes(made)

    return Calibrator()


def check_table(calibrator: Any, asked_allowed: bool) -> bytes:
    """The table after a build.

    Raises:
        WorkflowError: none was made, or one was given and TensorRT asked for data all the same.
    """
    if not calibrator.table:
        raise WorkflowError(
            "TensorRT made no calibration table",
            "The run's log has the calibrator's words.",
            "calibration-failed",
        )
    if calibrator.asked and not asked_allowed:
        raise WorkflowError(
            "TensorRT did not use the calibration table that it was given",
            "Delete the kind `trt_calibration` from the worker's cache, then run it again.",
            "calibration-failed",
        )
    return bytes(calibrator.table)
