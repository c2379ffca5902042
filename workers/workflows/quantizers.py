# SPDX-License-Identifier: Apache-2.0
"""Ranges of a model's quantizers: collected by the library's calibrators, checked, kept as plain numbers, set again."""

import contextlib
from typing import Any, Dict, Iterator, List, Tuple

from farm.contract.job import Calibration
from workers.workflows.errors import Unsupported, WorkflowError, is_out_of_memory

Quantizers = List[Tuple[str, Any]]
#: By quantizer: the largest absolute value that it keeps, one for each channel or one for all; None where none was met.
Ranges = Dict[str, Any]

#: Bins of a histogram between two candidates of the entropy search, as in the farm's own (`calibration.STRIDE`).
_ENTROPY_STRIDE = 8
_FIRST_BIN = 128
#: Below it a range is nothing but zeros: 2^-24, where the libraries draw the line.
_NO_RANGE = 2.0**-24
_LEVELS = 127.0


def quantizers_of(module: Any, kind: Any) -> Quantizers:
    """The quantizers of a model that are on, by name; `kind` is the library's class of them."""
    return [(name, part) for name, part in module.named_modules() if isinstance(part, kind) and not part._disabled]


def calibrate(module: Any, quantizers: Quantizers, batches: Iterator[Any], calibration: Calibration) -> Ranges:
    """Run `batches` through the model with its quantizers only watching, and find the range of each.

    Raises:
        WorkflowError: values that are not finite were met.
    """
    import torch

    for _, quantizer in quantizers:
        quantizer.disable_quant()
        quantizer.enable_calib()
    with torch.no_grad(), _explained():
        for batch in batches:
            module(torch.from_numpy(batch))
        found = {name: _amax(quantizer._calibrator, calibration) for name, quantizer in quantizers}
    return {name: _checked(name, amax) for name, amax in found.items()}


def set_ranges(quantizers: Quantizers, ranges: Ranges) -> None:
    """Give quantizers their ranges and let them quantise; those that met nothing are turned off."""
    import numpy as np

    for name, quantizer in quantizers:
        quantizer.disable_calib()
        if ranges[name] is None:
            quantizer.disable()
            continue
        quantizer.amax = np.array(ranges[name], dtype=np.float32)
        quantizer.enable_quant()


def mse_amax(counts: Any, edges: Any) -> float:
    """The range that loses least, in squares, of a histogram of absolute values between `edges`.

    As `_compute_amax_mse` of pytorch-quantization's `calib/histogram.py`, which wants a GPU; ModelOpt's copy hands its
    arguments over in the wrong order (0.47).
    """
    import numpy as np

    centres = (edges[1:] + edges[:-1]).astype(np.float64) / 2
    best, least = float(edges[-1]), np.inf
    for amax in centres[_FIRST_BIN:]:
        step = amax / _LEVELS
        error = np.clip(np.rint(centres / step), -_LEVELS - 1, _LEVELS) * step - centres
        loss = float((error**2 * counts).sum())
        if loss < least:
            best, least = float(amax), loss
    return best


def _amax(calibrator: Any, calibration: Calibration) -> Any:
    if not hasattr(calibrator, "_calib_hist"):  # of weights always, of activations with `minmax`: the maximum
        return calibrator.compute_amax()
    if calibrator._calib_hist is None:
        return None
    if float(calibrator._calib_bin_edges[-1]) <= _NO_RANGE:
        return 0.0
    if calibration.method == "percentile":
        return calibrator.compute_amax("percentile", percentile=calibration.percentile)
    if calibration.method == "entropy":
        return calibrator.compute_amax("entropy", stride=_ENTROPY_STRIDE, start_bin=_FIRST_BIN)
    if calibration.method == "mse":
        return mse_amax(calibrator._calib_hist.numpy(), calibrator._calib_bin_edges.numpy())
    raise Unsupported("calibration method {!r} is not known".format(calibration.method), None, "unknown-option")


def _checked(name: str, amax: Any) -> Any:
    """As plain numbers. Channels that are all zero get the tensor's largest range: a scale of zero divides by zero."""
    import numpy as np

    if amax is None:
        return None
    array = np.array(amax, dtype=np.float32)
    if not np.isfinite(array).all():
        raise _not_finite("quantizer {}".format(name))
    largest = float(array.max())
    filled = np.where(array > _NO_RANGE, array, largest if largest > _NO_RANGE else _LEVELS)
    return filled.tolist()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OverflowError, ValueError, AssertionError) as error:
        text = str(error).lower()
        told = any(word in text for word in ("finite", "infinity", "nan ", "count mismatch"))
        if is_out_of_memory(error) or not told:
            raise
        raise _not_finite(str(error).splitlines()[0]) from error


def _not_finite(where: str) -> WorkflowError:
    return WorkflowError(
        "calibration met values that no range holds: {}".format(where),
        "The fp32 model itself overflows on these inputs, or is zero on all of a batch; look at its weights.",
        "calibration-failed",
    )
