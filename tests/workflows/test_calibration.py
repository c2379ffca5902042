# SPDX-License-Identifier: Apache-2.0
"""Ranges for int8: against a slow restatement of the method, and against ONNX Runtime itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.contract.job import Calibration, JobSpec, ModelSpec
from tests.factories import make_job
from tests.workflows.onnx_models import save_model
from workers.workflows import calibration
from workers.workflows.calibration import BINS, entropy_bins, find_ranges, percentile_bins
from workers.workflows.errors import Unsupported, WorkflowError
from workers.workflows.inputs import calibration_batches

np = pytest.importorskip("numpy")


def _counts(values: Any, bins: int = 256) -> Any:
    return np.histogram(np.abs(values), bins=bins)[0].astype(np.int64)


def _slow_divergence(bins: list[float], size: int, levels: int) -> float:
    """One candidate of the method, element by element, as pytorch-quantization's loops have it."""
    kept = bins[:size]
    level = [i * levels // size for i in range(size)]
    sums, filled = [0.0] * levels, [0] * levels
    for i, value in enumerate(kept):
        if value:
            sums[level[i]] += value
            filled[level[i]] += 1
    spread = [sums[level[i]] / filled[level[i]] if value else 0.0 for i, value in enumerate(kept)]
    reference = [*kept[:-1], kept[-1] + sum(bins[size:])]
    p = np.array(reference) / sum(reference)
    q = np.array(spread) / sum(spread)
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += a * np.log(a / b) if b > 0 else np.inf
    return float(total)


@pytest.mark.parametrize("seed", range(6))
def test_the_entropy_search_finds_what_a_slow_search_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, size=4000) if seed % 2 else np.maximum(rng.normal(size=4000), 0)
    counts, levels = _counts(values), 64
    bins = [float(c) for c in counts]
    bins[0] = bins[1]
    divergences = {size: _slow_divergence(bins, size, levels) for size in range(levels, len(bins) + 1)}
    least = min(divergences.values())
    found = entropy_bins(counts, levels, stride=1)
    assert divergences[found] == pytest.approx(least, rel=1e-9)


def test_entropy_clips_a_lone_outlier_and_keeps_an_even_spread() -> None:
    rng = np.random.default_rng(0)
    bulk = rng.normal(size=100_000)
    clipped = entropy_bins(_counts(np.append(bulk, 40.0), BINS), 128)
    kept = entropy_bins(_counts(rng.uniform(0, 1, 100_000), BINS), 128)
    assert clipped < 0.3 * BINS
    assert kept > 0.95 * BINS


def test_a_percentile_holds_at_least_its_share() -> None:
    counts = np.array([50, 30, 15, 4, 1])
    assert [percentile_bins(counts, p) for p in (40.0, 80.0, 94.0, 99.5, 100.0)] == [1, 2, 3, 5, 5]
    assert percentile_bins(np.zeros(4), 99.0) == 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small fp32 model."""
    pytest.importorskip("onnxruntime")
    return save_model(tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture
def job() -> JobSpec:
    """A job with inputs that the small model takes."""
    return make_job(model=ModelSpec("m", "onnx", (3, 16, 16)), precision="int8")


Ranges = Callable[..., dict[str, tuple[float, float]]]


@pytest.fixture
def ranges(model: Path, job: JobSpec) -> Ranges:
    """Ranges of the small model by method."""

    def find(method: str, batch: int = 8, unsigned: bool = True, percentile: float = 90.0) -> Any:
        asked = Calibration(method, samples=32, batch=batch, percentile=percentile)
        return find_ranges(str(model), lambda: calibration_batches(job, asked), asked, unsigned)

    return find


@pytest.mark.models
def test_minmax_is_the_smallest_and_largest_value_that_was_met(ranges: Ranges, model: Path, job: JobSpec) -> None:
    import onnxruntime as ort

    found = ranges("minmax")
    (data,) = calibration_batches(job, Calibration(samples=32, batch=32))
    (scores,) = ort.InferenceSession(str(model)).run(["scores"], {"image": data})
    assert found["scores"] == pytest.approx((scores.min(), scores.max()), rel=1e-5)
    assert found["x"] == (data.min(), data.max())


@pytest.mark.models
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_the_calibration_batch_does_not_change_the_ranges(ranges: Ranges, method: str) -> None:
    one, all_at_once = ranges(method, batch=1), ranges(method, batch=32)
    assert one.keys() == all_at_once.keys()
    for name in one:
        assert one[name] == pytest.approx(all_at_once[name], rel=1e-4, abs=1e-6), name


@pytest.mark.models
def test_entropy_and_percentile_are_not_minmax(ranges: Ranges) -> None:
    minmax, entropy, percentile = (ranges(method) for method in ("minmax", "entropy", "percentile"))
    for other in (entropy, percentile):
        assert other != minmax
        assert all(minmax[n][0] <= other[n][0] <= other[n][1] <= minmax[n][1] for n in minmax)
    assert percentile["x"][1] == pytest.approx(0.9, abs=0.01)


@pytest.mark.models
def test_nothing_is_left_beside_the_model(ranges: Ranges, model: Path) -> None:
    ranges("entropy")
    assert [p.name for p in model.parent.iterdir()] == ["model.onnx"]


@pytest.mark.models
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, inside ONNX Runtime
def test_values_that_are_not_finite_are_refused_by_name(model: Path) -> None:
    bad = [np.full((1, 3, 16, 16), np.inf, dtype=np.float32)]
    with pytest.raises(WorkflowError, match="not finite in tensor"):
        find_ranges(str(model), lambda: iter(bad), Calibration(), True)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(Unsupported, match="guess"):
        find_ranges("none", lambda: iter(()), Calibration(method="guess"), True)


@pytest.mark.models
def test_minmax_int8_gives_what_onnxruntimes_own_quantize_static_gives(
    model: Path, job: JobSpec, tmp_path: Path
) -> None:
    """Our steps are its steps: the same ranges, the same types, the same numbers out."""
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_static

    from workers.workflows.quantized import _preprocess, _write_qdq

    asked = Calibration(samples=16, batch=4)
    pre, ours, theirs = (tmp_path / name for name in ("pre.onnx", "ours.onnx", "theirs.onnx"))
    _preprocess(str(model), str(pre))
    found = find_ranges(str(pre), lambda: calibration_batches(job, asked), asked, True)
    _write_qdq(str(pre), found, str(ours), True, "quint8", calibration.operators(), {})
    feeds = ({"image": batch} for batch in calibration_batches(job, asked))

    class Reader:
        def get_next(self) -> Any:
            return next(feeds, None)

    quantize_static(
        str(pre),
        str(theirs),
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    x = {"image": np.random.default_rng(1).random((4, 3, 16, 16), dtype=np.float32)}
    got, want = (ort.InferenceSession(str(p)).run(None, x)[0] for p in (ours, theirs))
    assert np.abs(got - want).max() == 0


def test_the_number_of_passes_is_what_progress_counts_with() -> None:
    assert [calibration.passes(Calibration(m)) for m in ("minmax", "entropy", "percentile")] == [1, 2, 2]
