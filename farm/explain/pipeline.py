# SPDX-License-Identifier: Apache-2.0
"""What a study of the pipeline found, as its record keeps it, and in words. Pure."""

from __future__ import annotations

from farm.contract.codec import DecodeError, from_json
from farm.contract.outcome import Outcome
from farm.contract.pipeline import LoadPoint, OverlappedPass, PipelineResult, SerialPass
from farm.contract.record import PIPELINE, Record

#: What people call the stages.
STAGE_WORDS = {
    "decode": "decode",
    "preprocess": "preprocess",
    "collate": "collate",
    "copy_in": "copy in",
    "infer": "infer",
    "copy_out": "copy out",
    "postprocess": "postprocess",
}


def pipeline_of(record: Record) -> PipelineResult | None:
    """What the run found; None where it is no study that ended well, or is told in a way that this farm cannot read."""
    told = record.effective.get("pipeline")
    if record.point != PIPELINE or record.outcome is not Outcome.OK or not isinstance(told, dict):
        return None
    try:
        return from_json(PipelineResult, told)
    except DecodeError:
        return None


def pipeline_lines(found: PipelineResult) -> list[str]:
    """The study in sentences: the files, each pass, the bottleneck."""
    size = found.images_bytes / found.images / 1024
    lines = [
        f"batch {found.batch_size}, {found.images} JPEG files of {size:.3g} KiB, {found.decoder}; copy: {found.copy}"
    ]
    if found.serial is not None:
        lines.append(_serial(found.serial))
    if found.overlapped is not None:
        lines += [_overlapped(found.overlapped), found.overlapped.bottleneck.said]
    return lines + [load_words(load) for load in found.loads]


def _serial(of: SerialPass) -> str:
    longest = max(of.stages, key=lambda stage: stage.share)
    return (
        f"one after the other: {of.per_s:.4g} images/s; {STAGE_WORDS[longest.name]} has "
        f"{100 * longest.share:.0f} % of the time"
    )


def _overlapped(of: OverlappedPass) -> str:
    said = f"all at once: {of.per_s:.4g} images/s"
    if of.speed_up is None or of.bound_per_s is None or of.bound_share is None:
        return said
    return (
        f"{said}, {of.speed_up:.3g} times as many; {100 * of.bound_share:.0f} % of the {of.bound_per_s:.4g} images/s "
        "that the slowest worker would allow"
    )


def load_words(of: LoadPoint) -> str:
    """One rate in a sentence."""
    said = f"at {of.offered_per_s:.4g} images/s"
    if of.of_capacity is not None:
        said += f" ({100 * of.of_capacity:.0f} % of capacity)"
    if of.overloaded:
        return f"{said}: overloaded, no steady latency: {of.overloaded}"
    named = (("p50", of.p50_ns), ("p95", of.p95_ns), ("p99", of.p99_ns))
    known = ", ".join(f"{name} {value / 1e6:.4g} ms" for name, value in named if value is not None)
    return f"{said}: {known}; {of.mean_batch:.3g} images a batch"
