# SPDX-License-Identifier: Apache-2.0
"""What can be told of a run's outputs without a reference: their digest, and whether they are numbers at all."""

import hashlib
from typing import Any, Dict, List, Optional, Tuple

from farm.contract.run import Mismatch
from workers.workflows.errors import OutputsNotFinite

Outputs = List[Tuple[str, Any]]


def outputs_sha256(outputs: Outputs) -> Optional[str]:
    """A digest of names, types, shapes and bytes, in order: equal only for equal outputs. None where there are none."""
    if not outputs:
        return None
    import numpy as np

    hasher = hashlib.sha256()
    for name, array in outputs:
        held = np.ascontiguousarray(array)
        hasher.update("{} {} {}\n".format(name, held.dtype.str, list(held.shape)).encode("utf-8"))
        hasher.update(held.tobytes())
    return hasher.hexdigest()


def nonfinite_counts(outputs: Outputs) -> Dict[str, int]:
    """How many values of each output are NaN or infinite, for the outputs that have any."""
    if not outputs:
        return {}
    import numpy as np

    found = {name: int((~np.isfinite(np.asarray(array))).sum()) for name, array in outputs}
    return {name: count for name, count in found.items() if count}


def check_finite(outputs: Outputs, compared: List[Mismatch]) -> None:
    """Refuse outputs that are not numbers, and tell whose fault it is.

    Raises:
        OutputsNotFinite: the outputs hold NaN or infinities, or the reference itself does.
    """
    bad_reference = {found.output: found.reference_nonfinite_count for found in compared}
    if any(bad_reference.values()):
        raise OutputsNotFinite(
            "the reference itself is not finite: {}".format(_counted(bad_reference)),
            "The model gives no numbers for these inputs in fp32: look at its weights and at `data`.",
            "nonfinite-reference",
        )
    bad = nonfinite_counts(outputs)
    if bad:
        against = "the reference's all are" if compared else "there is no reference to hold them against"
        raise OutputsNotFinite(
            "outputs are not finite: {}; {}".format(_counted(bad), against),
            "In fp16 a value beyond 65504 overflows, in int8 a bad range does it: use another precision or another "
            "calibration.",
        )


def _counted(counts: Dict[str, int]) -> str:
    return ", ".join("{} values of {!r}".format(count, name) for name, count in counts.items() if count)
