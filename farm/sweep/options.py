# SPDX-License-Identifier: Apache-2.0
"""Workflow options against the catalogue: do they exist, do their values fit, which are spelled-out defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from farm.contract.workflow_info import OptionValues, WorkflowInfo
from farm.sweep.problems import Problem

_KINDS: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (int, float), "text": (str,)}
_WORDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "text": "text"}


def option_problems(info: WorkflowInfo, options: Mapping[str, Any]) -> list[Problem]:
    """Every option that the workflow does not have, and every value that does not fit; paths end with the option."""
    found = []
    for name, value in options.items():
        loc = ("options", name)
        if name not in info.options:
            message = f"{info.name} has no such option"
            if name == "options":
                message += "; options stand beside the name: {name: " + info.name + ", OPTION: VALUE}"
            elif not info.options:
                message += "; it has none"
            found.append(Problem(loc, message, name, tuple(info.options)))
        else:
            message, allowed = _misfit(info.values.get(name), value)
            if message:
                found.append(Problem(loc, message, value, allowed))
    return found


def _misfit(values: OptionValues | None, value: Any) -> tuple[str, tuple[str, ...]]:
    """What is wrong with a value, and what is allowed; an empty text when nothing is."""
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number", ()
    if values is None:
        fits = isinstance(value, (str, int, float, bool))
        return ("" if fits else "must be a number, text, true or false"), ()
    if not isinstance(value, _KINDS[values.kind]) or (isinstance(value, bool) and values.kind != "bool"):
        return f"must be {_WORDS[values.kind]}", values.choices
    if values.choices and value not in values.choices:
        return "no such value", values.choices
    if values.minimum is not None and isinstance(value, (int, float)) and value < values.minimum:
        return f"must be at least {values.minimum:g}", ()
    return "", ()


def without_defaults(info: WorkflowInfo, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say something: a default that is spelled out means the same as leaving it out."""
    kept = {}
    for name in sorted(options):
        values, value = info.values.get(name), options[name]
        if values and values.kind == "float":
            value = float(value)
        if values is None or values.default is None or value != values.default:
            kept[name] = value
    return kept
