# SPDX-License-Identifier: Apache-2.0
"""Which device and which stack can run what. Pure: announcements in, answers out."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farm.contract.catalogue import WORKFLOWS
from farm.contract.device import DeviceInfo, StackInfo
from farm.contract.workflow_info import FeatureNeed, WorkflowInfo

Scalar = str | int | float | bool

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_TERM = re.compile(r"(>=|<=|==|!=|>|<)?\s*([^<>=!\s].*)")
_NUMBER = re.compile(r"(\d+(?:\.\d+)*)\s*([KMGT]i?B)?")
_SIZES: dict[str, int] = {f"{p}{i}B": (1024 if i else 1000) ** n for n, p in enumerate("KMGT", 1) for i in ("", "i")}


@dataclass(frozen=True)
class Refusal:
    """Why something cannot run here, and what would change that. `reference` is a stable kebab-case key."""

    reference: str
    reason: str
    hint: str


@dataclass(frozen=True)
class Condition:
    """One comparison with a device's fact: `compute_capability >= 8.0`."""

    fact: str
    operator: str
    value: Scalar

    def __str__(self) -> str:
        return f"{self.fact}{self.operator}{self.value}"


@dataclass(frozen=True)
class Selector:
    """Which devices: all of a class, one by id, or those of a kind whose facts meet every condition."""

    device_id: str | None = None
    device_class: str | None = None
    kind: str | None = None
    conditions: tuple[Condition, ...] = ()

    def __str__(self) -> str:
        named = [("id", self.device_id), ("class", self.device_class), ("kind", self.kind)]
        return " ".join([f"{key}={value}" for key, value in named if value] + [str(c) for c in self.conditions])


def parse_conditions(fact: str, value: Scalar) -> tuple[Condition, ...]:
    """Read what a sweep says about one fact: a plain value (equality) or comparisons, `">=8.0, <9.0"`.

    Raises:
        ValueError: a comparison without a value, or an order asked of something that is no number.
    """
    if not isinstance(value, str):
        return (Condition(fact, "==", value),)
    if not value.lstrip().startswith((">", "<", "=", "!")):
        return (Condition(fact, "==", value.strip()),)
    return tuple(_condition(fact, term.strip()) for term in value.split(","))


def _condition(fact: str, term: str) -> Condition:
    match = _TERM.fullmatch(term)
    if not match or not match[1]:
        raise ValueError(f"{term!r} is not a comparison: write one of {', '.join(_COMPARE)} and a value")
    sign, value = match[1], match[2].strip()
    if sign not in ("==", "!=") and not _NUMBER.fullmatch(value):
        raise ValueError(f"{term!r} asks for an order, which only numbers and versions have")
    return Condition(fact, sign, value)


def selector_matches(selector: Selector, device: DeviceInfo) -> bool:
    """Whether a device is one of those selected. A fact that the device does not state meets no condition."""
    named = [
        (selector.device_id, device.device_id),
        (selector.device_class, device.device_class),
        (selector.kind, device.kind),
    ]
    if any(wanted is not None and wanted != found for wanted, found in named):
        return False
    return all(c.fact in device.facts and _meets(device.facts[c.fact], c) for c in selector.conditions)


def _meets(fact: Any, condition: Condition) -> bool:
    """Compare numbers as numbers, dotted text as versions (8.10 > 8.9), and anything else for equality alone."""
    left, right = _comparable(fact, condition.value)
    if type(left) is not type(right):
        return condition.operator == "!="
    if isinstance(left, (str, bool)) and condition.operator not in ("==", "!="):
        return False
    return _COMPARE[condition.operator](left, right)


def _comparable(fact: Any, wanted: Scalar) -> tuple[Any, Any]:
    if isinstance(fact, bool) or isinstance(wanted, bool):
        return fact, wanted
    if isinstance(fact, (int, float)):
        return float(fact), _number(wanted)
    if isinstance(fact, str) and _version(fact) is not None:
        return _version(fact), _version(str(wanted))
    return str(fact), str(wanted)


def _number(wanted: Scalar) -> float | None:
    if not isinstance(wanted, str):
        return float(wanted)
    match = _NUMBER.fullmatch(wanted)
    if not match or match[1].count(".") > 1:
        return None
    return float(match[1]) * _SIZES.get(match[2] or "", 1)


def _version(text: str) -> tuple[int, ...] | None:
    """`8.0.1` as (8, 0, 1), without zeros at its end, so that 8 equals 8.0."""
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})*", text):
        return None
    parts = [int(part) for part in text.split(".")]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def choose_stack(
    workflow: str,
    precision: str,
    device: DeviceInfo,
    stacks: Sequence[StackInfo],
    options: Mapping[str, Any] | None = None,
    source: str | None = None,
    named: str | None = None,
) -> StackInfo | Refusal:
    """The first of a device's stacks that has all a workflow needs for such a job, or why there is none.

    The order of `stacks` is the operator's: the first that fits is meant to be used. `source` is the model's; `named`
    is the one stack that the job may run on.
    """
    info = WORKFLOWS.get(workflow)
    if info is None:
        return Refusal("unknown-workflow", f"there is no workflow {workflow!r}", f"Known: {', '.join(WORKFLOWS)}.")
    if device.kind not in info.device_kinds:
        reason = f"{workflow} does not run on a {device.kind}"
        return Refusal("device-kind-unsupported", reason, f"It runs on: {', '.join(info.device_kinds)}.")
    able = info.precisions_on(device.kind)
    if precision not in able:
        reason = f"{workflow} does not run {precision} on a {device.kind}"
        return Refusal("precision-unsupported", reason, f"It runs: {', '.join(able)}.")
    if named is not None:
        there, stacks = stacks, [stack for stack in stacks if stack.name == named]
        if not stacks:
            return _no_such_stack(named, device, there)
    needs = info.needs(precision, dict(options or {}), source)
    able_stacks = [stack for stack in stacks if not _lacks(info, device.kind, stack)]
    for stack in able_stacks:
        if not _unmet(needs, stack):
            return stack
    return _no_feature(info, precision, needs, able_stacks) if able_stacks else _no_stack(info, device, stacks)


def _unmet(needs: Sequence[FeatureNeed], stack: StackInfo) -> list[FeatureNeed]:
    """The needs that a stack does not meet. A probe that did not ask says nothing against a stack."""
    return [need for need in needs if stack.features.get(need.feature, True) is False]


def _no_feature(
    info: WorkflowInfo, precision: str, needs: Sequence[FeatureNeed], stacks: Sequence[StackInfo]
) -> Refusal:
    """Every library is there, and no stack has what this very job needs."""
    told = []
    for stack in stacks:
        versions = ", ".join(f"{name} {stack.libraries[name]}" for name in info.requires if name in stack.libraries)
        told.append(f"stack {stack.name!r} ({versions}) has {', '.join(_told(n, stack) for n in _unmet(needs, stack))}")
    reason = f"{info.name} in {precision}: {'; '.join(told)}"
    return Refusal("feature-missing", reason, _unmet(needs, stacks[0])[0].hint)


def _told(need: FeatureNeed, stack: StackInfo) -> str:
    """What a stack has not, and why, where its probe could tell."""
    why = stack.features.get(f"{need.feature}_problem")
    return f"{need.lacking} ({why})" if why else need.lacking


def _lacks(info: WorkflowInfo, kind: str, stack: StackInfo) -> list[str]:
    """What keeps a stack from running a workflow on a kind of device, in words. Nothing: it can."""
    if not stack.python_version:
        return ["its interpreter could not be probed"]
    found = [_missing(module, stack) for module in info.requires_on(kind)]
    for group in info.requires_any:
        missing = [_missing(module, stack) for module in group]
        if all(missing):
            found.append(" and ".join(missing))
    absent = [words for words in found if words]
    return absent or [text for need in info.needs_features.items() if (text := _lacks_feature(*need, stack))]


def _missing(module: str, stack: StackInfo) -> str:
    """What is wrong with a module in a stack; an empty text when nothing is."""
    if module in stack.problems:
        return f"{module} cannot be imported ({stack.problems[module]})"
    return "" if module in stack.libraries else f"no {module}"


def _lacks_feature(feature: str, wanted: str, stack: StackInfo) -> str | None:
    """Why a probed feature does not have what is wanted. A probe that did not ask says nothing against a stack."""
    there = stack.features.get(feature)
    if not isinstance(there, list) or wanted in there:
        return None
    why = stack.features.get(f"{feature}_problems")
    reason = why.get(wanted) if isinstance(why, dict) else None
    return f"{wanted} does not load ({reason})" if reason else f"no {wanted}"


def _no_such_stack(named: str, device: DeviceInfo, stacks: Sequence[StackInfo]) -> Refusal:
    known = ", ".join(repr(stack.name) for stack in stacks) or "none"
    reason = f"{device.device_id} has no stack {named!r}, which the job asks for; it has {known}"
    return Refusal("stack-missing", reason, "Name its interpreter in FARM_STACKS, then start the worker again.")


def _no_stack(info: WorkflowInfo, device: DeviceInfo, stacks: Sequence[StackInfo]) -> Refusal:
    if not stacks:
        return Refusal("no-stack", f"{device.device_id} has no stack", "Name its interpreters in FARM_STACKS.")
    lacks = [f"stack {stack.name!r}: {', '.join(_lacks(info, device.kind, stack))}" for stack in stacks]
    reason = f"no stack of {device.device_id} can run {info.name}; {'; '.join(lacks)}"
    wanted = [*info.requires_on(device.kind), *(" or ".join(group) for group in info.requires_any)]
    wanted += info.needs_features.values()
    hint = f"Install {', '.join(wanted)} for {stacks[0].python}, then start the worker again."
    return Refusal("library-missing", reason, hint)
