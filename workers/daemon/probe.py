# SPDX-License-Identifier: Apache-2.0
"""What this host has: its devices, and what each stack can do, asked of the stack's own interpreter."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

import farm
from farm.contract.codec import DecodeError, from_json
from farm.contract.device import Announcement, DeviceInfo, StackInfo
from farm.contract.names import check_name, slug
from farm.errors import UsageError
from farm.settings import Settings, StackSettings
from workers.daemon.bundle import EXIT_PYTHON_TOO_OLD, Bundle, make_bundle
from workers.daemon.host import Files, cpu_model, instruction_sets, memory, physical_cores, usable_cpus
from workers.daemon.jetson import jetson_devices
from workers.daemon.launch import device_environment, runner_environment
from workers.daemon.nvml import gpu_devices

PROBE_LIMIT_S = 120.0


def announcement(settings: Settings, device_id: str | None = None) -> Announcement:
    """The device and stacks of this host as a worker announces them. Takes seconds: it starts each stack."""
    device = find_device(settings, device_id)
    stacks = probe_stacks(settings, make_bundle(settings.cache_dir), device)
    return Announcement(device, stacks, farm.__version__, os.getpid())


def announcements(settings: Settings) -> list[Announcement]:
    """As `announcement`, for every device of this host. Stacks are asked once for the devices of a class."""
    bundle, found, known = make_bundle(settings.cache_dir), devices(settings), dict[str, list[StackInfo]]()
    for device in found:
        if device.device_class not in known:
            known[device.device_class] = probe_stacks(settings, bundle, device)
    return [Announcement(device, known[device.device_class], farm.__version__, os.getpid()) for device in found]


def devices(settings: Settings) -> list[DeviceInfo]:
    """The devices of this host that a worker can serve."""
    cpu = cpu_device(settings)
    return [cpu, *gpu_devices(cpu.host), *jetson_devices(cpu.host, Files())]


def find_device(settings: Settings, device_id: str | None = None) -> DeviceInfo:
    """The device of this host with that id; None: the settings' `device`, else the host's CPU.

    Raises:
        UsageError: this host has no such device; the message lists those it has.
    """
    found = devices(settings)
    wanted = device_id or settings.device
    for device in found:
        if wanted in (None, device.device_id):
            return device
    known = ", ".join(device.device_id for device in found)
    raise UsageError(f"this host has no device {wanted!r}; it has: {known}", hint="`farm probe` shows what it has.")


def named_devices(settings: Settings, names: Sequence[str]) -> list[str]:
    """The ids that `names` stand for, each once: an id of this host, `gpus` or `all`.

    Raises:
        UsageError: this host has no such device.
    """
    found: dict[str, None] = {}
    for name in names:
        if name not in ("gpus", "all"):
            found[find_device(settings, name).device_id] = None
            continue
        chosen = [device.device_id for device in devices(settings) if name == "all" or device.kind == "gpu"]
        if not chosen:
            raise UsageError(
                "this host has no GPU that NVIDIA's management library names", hint="`farm probe` shows what it has."
            )
        found |= dict.fromkeys(chosen)
    return list(found)


def cpu_device(settings: Settings, files: Files | None = None) -> DeviceInfo:
    """This host's processors as one device."""
    files = files or Files()
    host = slug(socket.gethostname())
    machine = platform.machine()
    cores = len(usable_cpus())
    model = cpu_model(files) or platform.processor() or machine
    facts = {
        "cores": cores,
        "physical_cores": physical_cores(files),
        "memory_bytes": memory(files).get("MemTotal"),
        "arch": machine,
        **instruction_sets(files, machine),
    }
    return DeviceInfo(
        device_id=check_name(f"{host[:80]}-cpu", "device id"),
        device_class=check_name(f"cpu-{slug(model)}-{cores}c", "device class"),
        kind="cpu",
        host=host,
        name=f"{model} ({cores} cores)",
        facts={key: value for key, value in facts.items() if value is not None},
    )


#: Whoever kills a probe (memory, an operator) says nothing of the stack, and the answer holds until the next start.
_TRIES = 3


def probe_stacks(settings: Settings, bundle: Bundle, device: DeviceInfo | None = None) -> list[StackInfo]:
    """Ask each stack's interpreter what it has, in the operator's order; one that cannot answer is listed as well.

    With `device`, each is asked in the environment that runs on that device get.
    """
    more = device_environment(device) if device else {}
    asked = {name: stack.model_copy(update={"env": stack.env | more}) for name, stack in settings.stacks.items()}
    return [probe_stack(name, stack, bundle) for name, stack in asked.items()]


def probe_stack(name: str, stack: StackSettings, bundle: Bundle, limit_s: float = PROBE_LIMIT_S) -> StackInfo:
    """Ask one stack. Never raises for what is wrong with the stack: that is in `problems`."""
    with tempfile.TemporaryDirectory(prefix="inferfarm-probe-") as scratch:
        out, log = Path(scratch) / "stack.json", Path(scratch) / "log"
        problem = _run_probe([stack.python, "-I", str(bundle.path), "--probe", str(out)], stack, log, limit_s)
        if problem is None:
            try:
                info = from_json(StackInfo, json.loads(out.read_bytes()))
                return dataclasses.replace(info, name=name, python=stack.python)
            except (OSError, ValueError, DecodeError) as error:
                problem = f"its answer cannot be read: {error}"
        tail = log.read_text(errors="replace")[-500:].strip() if log.exists() else ""
    text = f"{problem}; it wrote: {tail}" if tail else problem
    return StackInfo(name=name, python=stack.python, python_version="", problems={"python": text})


def _run_probe(argv: list[str], stack: StackSettings, log: Path, limit_s: float, tries: int = _TRIES) -> str | None:
    """Run a probe to its end; return what went wrong, or None."""
    try:
        with log.open("wb") as stream:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=runner_environment(stack.env),
                start_new_session=True,
            )
    except OSError as error:
        return f"{argv[0]} cannot be started: {error.strerror or error}"
    try:
        code = process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        psutil.wait_procs(children, timeout=10)  # a signal that was sent has not ended them yet
        return f"it did not answer within {limit_s:g} s"
    if code == EXIT_PYTHON_TOO_OLD:
        return "it is older than Python 3.8"
    if code < 0 and tries > 1:
        return _run_probe(argv, stack, log, limit_s, tries - 1)
    if code < 0:
        return f"the probe was killed by signal {-code}"
    return f"the probe ended with exit code {code}" if code else None
