# SPDX-License-Identifier: Apache-2.0
"""`farm run`, `farm up`, `farm down`: a whole farm on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
import psutil

from farm.cli.common import EXIT_INTERRUPTED, SWEEP_FILE, open_farm

if TYPE_CHECKING:
    from farm.settings import Settings

UP_FILE = "up.json"
DEVICES = click.option(
    "--device",
    "devices",
    metavar="ID",
    multiple=True,
    help="A device of this machine to serve: an id (`farm probe`), `gpus` or `all`; may be repeated. Default: its CPU.",
)


@click.command()
@click.argument("sweep", type=SWEEP_FILE)
@click.option("--report", "report_dir", type=SWEEP_FILE, help="Where to write the report (default HOME/reports/SWEEP).")
@click.option("--again", is_flag=True, help="Measure again what is recorded already.")
@DEVICES
@click.pass_context
def run(ctx: click.Context, sweep: Path, report_dir: Path | None, again: bool, devices: tuple[str, ...]) -> int:
    """Measure SWEEP on this machine and report.

    Starts a broker, a scheduler and a worker for each device named, submits SWEEP, shows progress, prints a table,
    writes the report and stops what it started. Interrupted, the same command goes on where it stopped.

    \b
    Examples:
      farm run examples/quickstart.yaml --report report
      farm run examples/gpu-smoke.yaml --device gpus
    """
    from farm.cli.live import ProgressView
    from farm.cli.summary import finish
    from farm.sweep import load_sweep

    farm = open_farm(ctx)
    spec = load_sweep(sweep)
    if running_farm(farm.settings):
        click.echo(f"using the farm that runs in {farm.settings.home}")
        submission = farm.submit(spec, again=again)
        with ProgressView() as view:
            for progress in farm.watch(submission.sweep_id):
                view.show(progress)
    else:
        try:
            with ProgressView() as view:
                submission = farm.run(spec, again=again, devices=devices, on_progress=view.show, say=click.echo)
        except KeyboardInterrupt:
            click.echo("interrupted, and everything stopped; the same command goes on where this one was", err=True)
            return EXIT_INTERRUPTED
    return finish(farm, submission, report_dir)


@click.command()
@click.option("--foreground", is_flag=True, help="Stay in the foreground until interrupted.")
@click.option(
    "--listen", default="127.0.0.1", show_default=True, help="Address of the embedded broker, for workers elsewhere."
)
@click.option("--flower/--no-flower", default=True, show_default=True, help="Also serve Flower's pages.")
@DEVICES
@click.pass_context
def up(ctx: click.Context, foreground: bool, listen: str, flower: bool, devices: tuple[str, ...]) -> int:
    """Start a farm on this machine: embedded broker, scheduler, a worker for each device named, and Flower.

    It keeps running, and comes back up part by part if one dies, until `farm down`.
    """
    settings = open_farm(ctx).settings
    state = running_farm(settings)
    if state:
        click.echo(f"a farm runs in {settings.home} already (process {state['pid']})")
        _say_addresses(state)
        return 0
    from workers.daemon.probe import named_devices

    found = named_devices(settings, devices)
    if foreground:
        return _stay(settings, listen, flower, found)
    return _detach(settings, listen, flower, found)


@click.command()
@click.option("--now", is_flag=True, help="Do not wait for the running job: it will be run again later.")
@click.option("--wait", "wait_s", default=600.0, show_default=True, help="Seconds to wait for the running job.")
@click.pass_context
def down(ctx: click.Context, now: bool, wait_s: float) -> int:
    """Stop the farm that `farm up` started. The job that runs is finished first, unless --now."""
    from farm.errors import UnavailableError

    settings = open_farm(ctx).settings
    state = running_farm(settings)
    if not state:
        click.echo(f"no farm runs in {settings.home}")
        return 0
    os.kill(state["pid"], signal.SIGINT if now else signal.SIGTERM)
    deadline = time.monotonic() + wait_s
    # It lets go of the lock a moment before it ends, and whoever reads "stopped" may look for its process.
    while running_farm(settings) or _runs(state["pid"]):
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"the farm has not stopped within {wait_s:.0f} s: a job still runs", hint="Use `farm down --now`."
            )
        time.sleep(0.1)
    click.echo("stopped")
    return 0


def _runs(pid: int) -> bool:
    """Whether a process runs: one that has ended and waits for its parent to notice does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def running_farm(settings: Settings) -> dict[str, Any] | None:
    """What `farm up` wrote, if its process still holds the lock on it."""
    import fcntl

    path = settings.run_dir / UP_FILE
    try:
        with path.open("r+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                text = stream.read()
        state = json.loads(text) if text else {}
        return state if isinstance(state, dict) and isinstance(state.get("pid"), int) else None
    except (OSError, ValueError, RecursionError):
        return None


def _detach(settings: Settings, listen: str, flower: bool, devices: list[str]) -> int:
    from farm.errors import UnavailableError
    from farm.local import READY_LIMIT_S

    log = settings.run_dir / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "farm.cli.main", "up", "--foreground", "--listen", listen]
    argv.append("--flower" if flower else "--no-flower")
    argv += [word for device in devices for word in ("--device", device)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | settings.environment(),
            start_new_session=True,
        )
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        state = running_farm(settings)
        if state and state.get("ready"):
            click.echo(f"farm is up in {settings.home} (process {state['pid']}, log {log})")
            _say_addresses(state)
            return 0
        time.sleep(0.1)
    raise UnavailableError(f"the farm did not come up; {log} says:\n{log.read_text(errors='replace')[-2000:]}")


def _stay(settings: Settings, listen: str, flower: bool, devices: list[str]) -> int:
    import fcntl

    from farm.broker.connection import broker_url, redact
    from farm.broker.flower import flower_url
    from farm.errors import UnavailableError
    from farm.local import LocalFarm
    from farm.store import Store

    settings.run_dir.mkdir(parents=True, exist_ok=True)
    wanted: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        wanted.append(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with (settings.run_dir / UP_FILE).open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(f"a farm runs in {settings.home} already", hint="`farm down` stops it.") from None
        state = {"pid": os.getpid(), "flower": flower_url(settings) if flower else None}
        _write(held, state)
        Store(settings.store_dir).create()
        local = LocalFarm(
            settings,
            flower=flower,
            canary=settings.canary,
            listen=listen,
            say=lambda text: click.echo(text),
            devices=devices,
        )
        local.start()
        try:
            address = redact(broker_url(settings)).replace("127.0.0.1", listen)
            _write(held, state | {"ready": True, "broker": address, "store": str(settings.store_dir)})
            click.echo("ready")
            local.watch_over(lambda: bool(wanted))
        finally:
            local.stop(at_once=signal.SIGINT in wanted)
    return 0


def _write(stream: Any, state: dict[str, Any]) -> None:
    stream.truncate(0)
    stream.write(json.dumps(state))
    stream.flush()


def _say_addresses(state: dict[str, Any]) -> None:
    for name in ("broker", "store", "flower"):
        if state.get(name):
            click.echo(f"{name}: {state[name]}")
