# SPDX-License-Identifier: Apache-2.0
"""What `farm probe` shows of a device: its facts, what each stack holds and can do, what runs there and why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from farm.cli.common import print_table
from farm.contract.catalogue import WORKFLOWS
from farm.contract.device import Announcement, DeviceInfo, StackInfo
from farm.devices import Refusal, choose_stack

#: Features that are long lists of no interest to a reader.
_LEFT_OUT = ("cpu_flags",)


def show(found: Announcement) -> None:
    """Print all of it."""
    device = found.device
    click.echo(f"{device.device_id}: {device.name} (class {device.device_class})")
    print_table(None, ["fact", "value"], [[k, readable(v)] for k, v in sorted(device.facts.items())])
    for stack in found.stacks:
        _show_stack(stack)
    click.echo("")
    print_table(None, ["workflow", "precision", "runs here"], list(runs_here(device, found.stacks)))


def _show_stack(stack: StackInfo) -> None:
    click.echo(f"\nstack {stack.name}: Python {stack.python_version or 'not probed'}, {stack.python}")
    if stack.libraries:
        print_table(None, ["library", "version"], sorted([k, v] for k, v in stack.libraries.items()))
    rows = [[name, readable(value)] for name, value in sorted(stack.features.items()) if name not in _LEFT_OUT]
    if rows:
        print_table(None, ["feature", "value"], rows)
    for library, problem in sorted(stack.problems.items()):
        click.echo(f"  {library}: {problem}")


def readable(value: Any) -> str:
    """A fact or feature in words: yes and no, lists with commas, mappings with colons, a dash for what is empty."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {readable(part)}" for key, part in sorted(value.items())) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(readable(part) for part in value) or "-"
    return "-" if value is None else str(value)


def runs_here(device: DeviceInfo, stacks: list[StackInfo]) -> Iterator[list[str]]:
    """Workflow, precision, and the stack that runs it or why none does, with default options."""
    for name, info in WORKFLOWS.items():
        if device.kind not in info.device_kinds:
            yield [name, "all", f"no: it runs on {', '.join(info.device_kinds)} only"]
            continue
        for precision in info.precisions:
            answer = choose_stack(name, precision, device, stacks)
            if isinstance(answer, Refusal):
                yield [name, precision, f"no: {answer.reason}. {answer.hint}"]
            else:
                yield [name, precision, f"yes, on stack {answer.name}"]
