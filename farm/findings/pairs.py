# SPDX-License-Identifier: Apache-2.0
"""Two ways to run one model on one device, where the one that should be faster is not. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from farm.contract.catalogue import BASELINES
from farm.findings import cells, judging, words
from farm.findings.cells import Cell
from farm.findings.model import Candidate, Finding
from farm.findings.scene import Scene, candidate, subset

TENSORRT = ("onnx_tensorrt", "onnxruntime_trt", "torch_tensorrt", "tf_trt")

#: A workflow that has int8 alone is held against the one that runs the same engine or session without quantisation.
_PLAIN = {"pytorch_quantization": {"gpu": "onnx_tensorrt", "soc": "onnx_tensorrt", "cpu": "onnxruntime_cpu"}}

#: How people call what a baseline runs on.
_LIBRARIES = {"pytorch": "PyTorch", "tensorflow": "TensorFlow"}

INT8, SLOWER = "int8-not-faster", "tensorrt-slower"


def int8_not_faster(scene: Scene) -> Iterator[Candidate]:
    """int8 against fp16 of the same workflow, against fp32 where there is no fp16.

    Not faster: by the threshold of a comparison at most. So the ratio must clearly exceed 1 / (1 + threshold).
    """
    for new, near in _each(scene, lambda cell: cell.identity["precision"] == "int8"):
        workflow = _PLAIN.get(new.identity["workflow"], {}).get(new.kind, new.identity["workflow"])
        known = [c for c in near if c.identity["workflow"] == workflow]
        base = _nearest(known, new, "fp16") or _nearest(known, new, "fp32")
        if base is not None:
            yield _candidate(scene, INT8, base, new, 1 / (1 + scene.rules.threshold))


def tensorrt_slower(scene: Scene) -> Iterator[Candidate]:
    """A TensorRT workflow against PyTorch, or TensorFlow, as it is, in the same precision."""
    for new, near in _each(scene, lambda cell: cell.identity["workflow"] in TENSORRT):
        base = _nearest([c for c in near if c.identity["workflow"] in BASELINES], new, new.identity["precision"])
        if base is not None:
            yield _candidate(scene, SLOWER, base, new, 1 + scene.rules.threshold)


def _each(scene: Scene, wanted: Callable[[Cell], bool]) -> Iterator[tuple[Cell, Sequence[Cell]]]:
    for near in scene.together.values():
        for cell in near:
            if wanted(cell):
                yield cell, near


def _nearest(known: Sequence[Cell], new: Cell, precision: str) -> Cell | None:
    """The base to hold a cell against: of the same stack if there is one, with the most options in common."""
    options = new.records[-1].job.options
    fit = [
        cell
        for cell in known
        if cell.identity["precision"] == precision and subset(cell.records[-1].job.options, options)
    ]

    def near(cell: Cell) -> tuple[bool, int, str]:
        job = cell.records[-1].job
        return cell.identity["stack"] == new.identity["stack"], len(job.options), cell.records[-1].started_at

    return max(fit, key=near, default=None)


def _candidate(scene: Scene, rule: str, base: Cell, new: Cell, floor: float) -> Candidate:
    sd = scene.limits["assumed_process_sd"]
    answer = judging.above(base.side, new.side, floor, sd, scene.rules, clocks=True)
    old, young = cells.evidence(base), cells.evidence(new)
    words_of = _int8_words if rule == INT8 else _tensorrt_words
    sentence = (
        f"{words.point(new)} on {new.place}: {words_of(base, new, answer.ratio.value)}: "
        f"{words.quantity(young)} against {words.quantity(old)}, {words.times(answer.ratio)}, {answer.sure}."
    )
    expected = ("workflow", "precision", "calibration", "options") if rule == INT8 else ("workflow", "calibration")
    finding = Finding(
        rule,
        _cell(base, new),
        sentence,
        answer.ratio.value - 1,
        answer.sure,
        old,
        young,
        answer.ratio.value,
        answer.ratio.low,
        answer.ratio.high,
        answer.ratio.confidence,
        notes=(*cells.differences(base, new, expected), *([answer.why] if answer.why else [])),
    )
    return candidate(finding, answer)


def _int8_words(base: Cell, new: Cell, ratio: float) -> str:
    how = f"takes {words.more(ratio)}" if ratio > 1 else "is not faster than"
    return f"{new.way} {how} {base.way}"


def _tensorrt_words(base: Cell, new: Cell, ratio: float) -> str:
    return f"{new.way} takes {words.more(ratio)} plain {_LIBRARIES[base.identity['workflow']]}, {base.way}"


def _cell(base: Cell, new: Cell) -> dict[str, str]:
    kept = {name: new.identity[name] for name in ("model", "batch", "device")}
    return kept | {"device_class": new.device_class, "base": base.way, "new": new.way}
