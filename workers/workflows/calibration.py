# SPDX-License-Identifier: Apache-2.0
"""The range of each tensor, for int8: smallest and largest value, least entropy, or a percentile.

ONNX Runtime's own entropy calibrator has as many bins as levels, so that its search has one candidate and gives
minmax; and its histograms keep every activation of every batch. Here, ONNX Runtime gives the ranges in a first pass;
entropy and percentile count |x| of each tensor into 2048 bins over its range in a second. Nothing outlives its batch.
"""

import os
import tempfile
from typing import Any, Callable, Dict, Iterator, List, Tuple

from farm.contract.job import Calibration
from workers.workflows.errors import Unsupported, WorkflowError

RECIPE = 1
BINS = 2048
#: Bins between two candidate thresholds: 0.4 % of a tensor's range.
STRIDE = 8

Ranges = Dict[str, Tuple[float, float]]
Batches = Callable[[], Iterator[Any]]


def find_ranges(model_path: str, batches: Batches, calibration: Calibration, unsigned: bool) -> Ranges:
    """Return (low, high) of every tensor that int8 needs a range of.

    `batches()` starts the calibration data anew. `unsigned` says that activations are stored as quint8: then a tensor
    that is never negative has 256 levels, not 128.

    Raises:
        WorkflowError: values that are not finite were met.
        Unsupported: the method is not known.
    """
    if calibration.method not in ("minmax", "entropy", "percentile"):
        raise Unsupported("calibration method {!r} is not known".format(calibration.method), None, "unknown-option")
    with tempfile.TemporaryDirectory(dir=os.path.dirname(model_path)) as work:
        ranges = _minmax(model_path, batches, os.path.join(work, "minmax.onnx"))
        if calibration.method == "minmax":
            return ranges
        counts = _histograms(model_path, batches, ranges, os.path.join(work, "histograms.onnx"))
    found = {}
    for name, (low, high) in ranges.items():
        width = max(abs(low), abs(high)) / BINS
        if calibration.method == "percentile":
            bins = percentile_bins(counts[name], calibration.percentile)
        else:
            bins = entropy_bins(counts[name], 256 if unsigned and low >= 0 else 128)
        found[name] = (max(low, -bins * width), min(high, bins * width))
    return found


def passes(calibration: Calibration) -> int:
    """How often `find_ranges` goes through the data."""
    return 1 if calibration.method == "minmax" else 2


def percentile_bins(counts: Any, percentile: float) -> int:
    """How many of the lowest bins hold at least `percentile` % of all values."""
    import numpy as np

    total = counts.sum()
    if total == 0:
        return len(counts)
    share = np.cumsum(counts) / total
    return min(int(np.searchsorted(share, percentile / 100.0)) + 1, len(counts))


def entropy_bins(counts: Any, levels: int, stride: int = STRIDE) -> int:
    """How many of the lowest bins to keep so that `levels` levels over them lose the least information.

    For each candidate, P is the histogram with all that is above put into its last bin, Q the histogram merged into
    `levels` levels and spread over its non-empty bins again; the least Kullback-Leibler divergence of P from Q wins,
    the largest threshold among equals. Method: S. Migacz, "8-bit Inference with TensorRT", GTC 2017; as in
    pytorch-quantization's `calib/histogram.py`, the first bin is set to the second, because zeros cost nothing.
    """
    import numpy as np

    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    best, best_divergence = len(bins), np.inf
    for size in range(len(bins), levels - 1, -stride):
        divergence = _divergence(np, bins, size, levels)
        if divergence < best_divergence:
            best, best_divergence = size, divergence
    return best


def _divergence(np: Any, bins: Any, size: int, levels: int) -> float:
    kept = bins[:size]
    reference = kept.copy()
    reference[-1] += bins[size:].sum()
    filled = kept > 0
    level = (np.arange(size) * levels) // size
    sums = np.bincount(level, weights=kept, minlength=levels)
    sizes = np.bincount(level, weights=filled, minlength=levels)
    spread = np.where(filled, (sums / np.maximum(sizes, 1))[level], 0.0)
    if reference.sum() == 0 or spread.sum() == 0:
        return float("inf")
    p, q = reference / reference.sum(), spread / spread.sum()
    counted = p > 0
    if (q[counted] == 0).any():
        return float("inf")
    return float((p[counted] * np.log(p[counted] / q[counted])).sum())


def _minmax(model_path: str, batches: Batches, augmented: str) -> Ranges:
    from onnxruntime.quantization.calibrate import CalibrationMethod

    calibrator = _calibrator(model_path, augmented, CalibrationMethod.MinMax)
    calibrator.collect_data(_Reader(calibrator, batches()))
    ranges: Ranges = {}
    found = calibrator.compute_data()
    for name in found:  # before 1.18 it has no items()
        low, high = (float(value.ravel()[0]) for value in found[name].range_value)
        if not -float("inf") < low <= high < float("inf"):
            raise WorkflowError(
                "calibration met values that are not finite in tensor {!r}: {} to {}".format(name, low, high),
                "The fp32 model itself overflows on uniform inputs; look at its weights.",
                "calibration-failed",
            )
        ranges[name] = (low, high)
    return ranges


def _histograms(model_path: str, batches: Batches, ranges: Ranges, augmented: str) -> Dict[str, Any]:
    import numpy as np
    from onnxruntime.quantization.calibrate import CalibrationMethod

    session = _calibrator(model_path, augmented, CalibrationMethod.Percentile).infer_session
    feed, names = session.get_inputs()[0].name, list(ranges)
    counts = {name: np.zeros(BINS, dtype=np.int64) for name in names}
    for batch in batches():
        for name, values in zip(names, session.run(names, {feed: batch})):
            largest = max(abs(ranges[name][0]), abs(ranges[name][1]))
            if largest > 0:
                scaled = np.abs(values.ravel()) * np.float32(BINS / largest)
                index = np.minimum(scaled.astype(np.int32), BINS - 1)
                counts[name] += np.bincount(index, minlength=BINS)
    return counts


def _calibrator(model_path: str, augmented: str, method: Any) -> Any:
    from pathlib import Path

    from onnxruntime.quantization.calibrate import create_calibrator

    return create_calibrator(Path(model_path), operators(), augmented_model_path=augmented, calibrate_method=method)


def operators() -> List[str]:
    """Operators that ONNX Runtime quantises, as its `quantize_static` lists them."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted(set(QLinearOpsRegistry) | set(QDQRegistry))


class _Reader:
    """ONNX Runtime's reader protocol over an iterator of batches."""

    def __init__(self, calibrator: Any, batches: Iterator[Any]) -> None:
        self._name = calibrator.infer_session.get_inputs()[0].name
        self._batches = batches

    def get_next(self) -> Any:
        """The next feed, or None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}
