# SPDX-License-Identifier: Apache-2.0
"""What can be told of a run's outputs without a reference: their digest, and whether they are numbers at all."""

import hashlib
from typing import Any, Dict, List, Optional, Tuple

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
