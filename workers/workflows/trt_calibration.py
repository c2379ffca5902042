# SPDX-License-Identifier: Apache-2.0
"""TensorRT's own int8 calibration (up to version 10): its calibrators, fed by the farm, and the table they make."""

import re
from typing import Any, Iterator, Optional, Tuple

from workers.workflows.errors import WorkflowError
from workers.workflows.trt_compat import calibrator_base
from workers.workflows.trt_memory import Memory

_HEADER = re.compile(r"TRT-(\d+)-\w+$")
_LINE = re.compile(r".+: [0-9a-fA-F]{1,8}$")


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
                self._staged = memory.pinned(found.shape, found.dtype.name)
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


def check_format(table: bytes, version: str) -> None:
    """Refuse a table that TensorRT would ignore or misread: it reads on after a line that it does not understand.

    A table is a header, `TRT-8600-EntropyCalibration2`, and a line for each tensor, `NAME: HEX`, the bits of its scale.

    Raises:
        WorkflowError: saying which line is wrong, or of which version the table is.
    """
    lines = table.decode("utf-8", "replace").splitlines()
    header = _HEADER.match(lines[0]) if lines else None
    if header is None or len(lines) < 2:
        raise _damaged("it has no header" if header is None else "it has no tensor")
    if int(header.group(1)) not in _version_numbers(version):
        raise _damaged("it is of TensorRT {}, and this is {}".format(header.group(1), version))
    for number, line in enumerate(lines[1:], 2):
        if not _LINE.match(line):
            raise _damaged("line {} is not NAME: HEX: {!r}".format(number, line[:60]))


def _version_numbers(version: str) -> Tuple[int, ...]:
    """8.6.0 as headers have it, 8600; from version 10 on the minor has a digit more, 100001 for 10.0.1."""
    parts = [int(part) for part in re.findall(r"\d+", version)[:3]]
    major, minor, patch = [*parts, 0, 0, 0][:3]
    return (major * 1000 + minor * 100 + patch, major * 10000 + minor * 100 + patch)


def _damaged(why: str) -> WorkflowError:
    return WorkflowError(
        "the calibration table is not used: {}".format(why),
        "Delete the kind `trt_calibration` from the worker's cache, then run it again; the next prepare calibrates.",
        "calibration-table-damaged",
    )


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
