# SPDX-License-Identifier: Apache-2.0
"""All rules over all records, and false findings weeded out among everything that was examined. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from farm.compare import ranks
from farm.findings import calibration, clocks, outside, pairs, rebuilds, stronger
from farm.findings.model import FALSE_DISCOVERY_RATE, Candidate, Examined, Finding, Findings
from farm.findings.scene import Rule, Scene
from farm.thresholds import Limits

_OWN = "ours"

#: By name, in the order in which they are told.
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            stronger.RULE,
            "Slower on stronger hardware",
            "A network takes longer on the class of devices that is the faster one over the other networks.",
            "It does not say why: clocks, power caps, drivers and the share of launches in the time all can do it.",
            '"Demystifying TensorRT", IISWC 2021',
            stronger.slower_on_stronger,
        ),
        Rule(
            pairs.INT8,
            "int8 not faster than fp16",
            "The quantised network is no more than 2 % faster than fp16 (fp32 where there is no fp16).",
            "It speaks of latency at this batch size; int8 may still take less memory or energy.",
            "reports of users",
            pairs.int8_not_faster,
        ),
        Rule(
            pairs.SLOWER,
            "TensorRT slower than plain PyTorch",
            "A workflow that builds engines takes more than 2 % longer than plain PyTorch, or TensorFlow, in the same"
            " precision.",
            "It says nothing of other builder settings: an engine built at a low optimisation level stays one.",
            _OWN,
            pairs.tensorrt_slower,
        ),
        Rule(
            clocks.RULE,
            "Time moved, cycles did not",
            "Between two runs of one series the time changed as the GPU's clock did, and the cycles stayed.",
            "It does not say what moved the clock; a memory-bound network follows another clock.",
            "nvbench's comparison in cycles",
            clocks.clock_not_cycles,
        ),
        Rule(
            rebuilds.VARIANCE,
            "Builds of one engine differ in time",
            "More of the scatter lies between builds than processes explain, and the range is over 2 %.",
            "Ten builds know the standard deviation between builds to within -31 % and +83 % only.",
            _OWN,
            rebuilds.rebuild_variance,
        ),
        Rule(
            rebuilds.OUTPUTS,
            "Builds of one engine answer differently",
            "Builds of the same network give outputs that are not the same bytes.",
            "It does not say that any answer is wrong: the mismatch against the reference does.",
            '"Demystifying TensorRT", IISWC 2021',
            rebuilds.rebuild_changes_outputs,
        ),
        Rule(
            calibration.RULE,
            "Calibration that costs accuracy",
            "Of two calibrations that differ in one thing one is less accurate, or int8 is less accurate than fp32.",
            "It is about this test set and this calibration set, not about another draw of either.",
            '"TensorRT Implementations of Model Quantization on Edge SoC", observation 6',
            calibration.calibration_costs_accuracy,
        ),
        Rule(
            outside.SHARE,
            "Work outside of the engine",
            "Operators run in the framework, or on the CPU, although the run is called by the engine's name.",
            "A share of operators is no share of time.",
            _OWN,
            outside.work_outside,
        ),
        Rule(
            outside.GROWN,
            "More work outside of the engine than before",
            "The share outside of the engine grew from one run of a series to the next.",
            "A share of operators is no share of time.",
            _OWN,
            outside.work_outside_grown,
        ),
    )
}


def find(records: Iterable[object], limits: Limits | None = None) -> Findings:
    """Everything that the records show, by rule. What is no record, did not end well, or lacks a field is passed over.

    Of the findings that rest on a test, at most `FALSE_DISCOVERY_RATE` are false: Benjamini and Hochberg's control is
    over all pairs that any rule examined, found or not.
    """
    scene = Scene.of(records, limits)
    looked = {name: list(rule.look(scene)) for name, rule in RULES.items()}
    kept = _controlled([made for of in looked.values() for made in of])
    found = [finding for finding in kept if finding is not None]
    return Findings(
        tuple(sorted(found, key=lambda f: (list(RULES).index(f.rule), -f.size, f.sentence))),
        tuple(_examined(name, of, found) for name, of in looked.items()),
    )


def _controlled(made: Sequence[Candidate]) -> list[Finding | None]:
    tested = [i for i, one in enumerate(made) if one.p_value is not None]
    adjusted = dict(zip(tested, ranks.false_discovery([made[i].p_value or 0.0 for i in tested]), strict=True))
    kept: list[Finding | None] = []
    for i, one in enumerate(made):
        stands = one.holds and adjusted.get(i, 0.0) <= FALSE_DISCOVERY_RATE
        kept.append(replace(one.finding, p_value=adjusted.get(i)) if stands else None)
    return kept


def _examined(name: str, looked: Sequence[Candidate], found: Sequence[Finding]) -> Examined:
    count = sum(finding.rule == name for finding in found)
    settled = sum(one.decided and not one.holds for one in looked)
    return Examined(name, len(looked), count, max(0, len(looked) - count - settled))
