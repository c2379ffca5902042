# SPDX-License-Identifier: Apache-2.0
"""Calibrations that cost accuracy, against one that differs in one thing, and against fp32. Pure.

Two shares of right answers on the same images are compared as if the images were two sets: predictions of single images
are not kept, so McNemar's test of the images on which the two disagree cannot be made. The images being the same, this
is careful: the difference scatters less than the test assumes. p-values are of the pooled two-proportion test, the
interval of the difference is Newcombe's (1998, method 10, from the two Wilson intervals).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from farm import identity
from farm.accuracy import CONFIDENCE, wilson
from farm.contract.catalogue import BASELINES
from farm.contract.codec import to_json
from farm.contract.job import Calibration
from farm.contract.record import ACCURACY, Record
from farm.findings.model import Candidate, Evidence, Finding, Sure
from farm.findings.scene import Scene
from farm.findings.words import percent

RULE = "calibration-costs-accuracy"


@dataclass(frozen=True)
class Taken:
    """One evaluation: `right` of `count` images."""

    record: Record
    right: int
    count: int

    @property
    def share(self) -> float:
        """Top-1."""
        return self.right / self.count

    @property
    def ends(self) -> tuple[float, float]:
        """Wilson's interval."""
        return wilson(self.right, self.count)


def calibration_costs_accuracy(scene: Scene) -> Iterator[Candidate]:
    """Calibrations of one int8 that differ in one thing, pair by pair; and each against fp32 on the same images."""
    for near in _together(scene.records):
        calibrated = [taken for taken in near if taken.record.job.calibration is not None]
        for one, other in itertools.combinations(calibrated, 2):
            changed = _changed(one, other)
            if changed and _alike(one, other):
                better, worse = (one, other) if one.share >= other.share else (other, one)
                yield _candidate(better, worse, changed, two_sided=True)
        for worse in calibrated:
            base = _fp32(near, worse)
            if base is not None:
                yield _candidate(base, worse, "fp32", two_sided=False)


def _together(records: Iterable[Record]) -> Iterator[list[Taken]]:
    """Evaluations of one network's weights on the same images and class of device; of each way the newest."""
    found: dict[str, dict[str, Taken]] = {}
    for record in sorted(records, key=lambda r: (r.started_at, r.run_id)):
        taken = _taken(record)
        if taken is not None and record.device is not None:
            job = record.job
            same = [to_json(job.model), to_json(job.accuracy), taken.count, record.device.device_class]
            way = {n: v for n, v in identity.identity(record).items() if n not in ("batch", "device")}
            found.setdefault(repr(same), {})[repr(way)] = taken
    for _, ways in sorted(found.items()):
        yield list(ways.values())


def _taken(record: Record) -> Taken | None:
    share, count = record.metrics.get("top1"), record.metrics.get("accuracy_samples")
    if record.point != ACCURACY or share is None or not count or not 0 <= share <= 1 or not math.isfinite(count):
        return None
    return Taken(record, round(share * count), round(count)) if count >= 1 else None


def _alike(one: Taken, other: Taken) -> bool:
    """All but the calibration agrees; weights by the trained file, too, where both name it."""
    fields = [identity.identity(taken.record) for taken in (one, other)]
    same = all(fields[0][n] == fields[1][n] for n in ("workflow", "precision", "options", "stack"))
    return same and _same_weights(one, other)


def _same_weights(one: Taken, other: Taken) -> bool:
    files = [{ref.sha256 for ref in taken.record.artifacts if ref.kind == "weights"} for taken in (one, other)]
    return not all(files) or files[0] == files[1]


def _changed(one: Taken, other: Taken) -> str:
    """The one thing in which two calibrations differ; '' where they differ in several."""
    told = [_parts(taken.record.job.calibration) for taken in (one, other)]
    differing = [name for name in told[0] if told[0][name] != told[1][name]]
    return differing[0] if len(differing) == 1 else ""


def _parts(calibration: Calibration | None) -> dict[str, str]:
    if calibration is None:
        return {}
    method = calibration.method + (f" {calibration.percentile:g} %" if calibration.method == "percentile" else "")
    return {"method": method, "samples": str(calibration.samples), "batch": str(calibration.batch)}


def _fp32(near: Sequence[Taken], worse: Taken) -> Taken | None:
    """fp32 through the same workflow, else through PyTorch or TensorFlow, with the plainest options."""
    for workflow in (worse.record.job.workflow, *BASELINES):
        known = [
            taken
            for taken in near
            if taken.record.job.precision == "fp32" and taken.record.job.workflow == workflow
            if _same_weights(taken, worse)
        ]
        if known:
            return min(known, key=lambda t: (len(t.record.job.options), t.record.run_id))
    return None


def _candidate(better: Taken, worse: Taken, changed: str, *, two_sided: bool) -> Candidate:
    p_value = p_below(worse, better)
    job = worse.record.job
    loss, low, high = difference(better, worse)
    against = f"{better.record.job.workflow} fp32" if changed == "fp32" else _words(better.record.job.calibration)
    sentence = (
        f"{job.model.label} ({job.model.weights}), {job.workflow} {job.precision} calibrated with "
        f"{_words(job.calibration)}: top-1 {percent(worse.share, 2)} against {percent(better.share, 2)} with "
        f"{against}, on the same {worse.count} images: {100 * loss:.2f} points less "
        f"[{100 * low:.2f}, {100 * high:.2f}]."
    )
    finding = Finding(
        RULE,
        {"model": job.model.label, "workflow": job.workflow, "precision": job.precision, "changed": changed}
        | {"base": against, "new": _words(job.calibration)},
        sentence,
        loss,
        Sure.IMAGES,
        _evidence(better, against),
        _evidence(worse, _words(job.calibration)),
        notes=("predictions of single images are not kept, so the shares are compared as of two sets of images",),
        numbers={"points": 100 * loss, "points_low": 100 * low, "points_high": 100 * high, "images": worse.count},
    )
    return Candidate(finding, better.ends[0] > worse.ends[1], min(1.0, 2 * p_value) if two_sided else p_value)


def p_below(worse: Taken, better: Taken) -> float:
    """One-sided, against "the first share is no smaller"; 1 where all answers of both are right, or wrong."""
    pooled = (worse.right + better.right) / (worse.count + better.count)
    variance = pooled * (1 - pooled) * (1 / worse.count + 1 / better.count)
    if variance <= 0:
        return 1.0
    return NormalDist().cdf((worse.share - better.share) / math.sqrt(variance))


def difference(better: Taken, worse: Taken) -> tuple[float, float, float]:
    """By how much the second share is smaller, with Newcombe's 95 % interval."""
    loss = better.share - worse.share
    (low_b, high_b), (low_w, high_w) = better.ends, worse.ends
    low = loss - math.hypot(better.share - low_b, high_w - worse.share)
    high = loss + math.hypot(high_b - better.share, worse.share - low_w)
    return loss, low, high


def _words(calibration: Calibration | None) -> str:
    parts = _parts(calibration)
    return f"{parts['method']}, {parts['samples']} samples, batch {parts['batch']}" if parts else "none"


def _evidence(taken: Taken, label: str) -> Evidence:
    low, high = taken.ends
    record = taken.record
    device = record.device.device_id if record.device else ""
    stack = record.stack.name if record.stack else ""
    return Evidence(label, (record.run_id,), "top1", "1", taken.share, low, high, CONFIDENCE, 1, device, stack)
