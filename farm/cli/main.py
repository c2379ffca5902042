# SPDX-License-Identifier: Apache-2.0
"""The `farm` command: finds the verb's module when it is used, and turns errors into messages and exit codes."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
from typing import Any

import click

from farm import __version__
from farm.cli.common import EXIT_INTERRUPTED
from farm.errors import FarmError, UsageError
from farm.secrets import hide, traceback_text

#: verb -> (module, function, one line for `farm --help`). Nothing is imported before it is used.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("farm.cli.local", "run", "Measure a sweep on this machine: starts everything, measures, reports, stops"),
    "up": ("farm.cli.local", "up", "Start a farm on this machine and keep it running, with Flower"),
    "down": ("farm.cli.local", "down", "Stop the farm that `farm up` started"),
    "submit": ("farm.cli.sweep", "submit", "Send a sweep to the farm (--dry-run shows what would happen)"),
    "status": ("farm.cli.sweep", "status", "Show all sweeps, or one sweep's jobs"),
    "watch": ("farm.cli.sweep", "watch", "Follow a sweep until it ends"),
    "cancel": ("farm.cli.sweep", "cancel", "Cancel a sweep or a job"),
    "retry": ("farm.cli.sweep", "retry", "Run a sweep's or a job's failed runs again"),
    "results": ("farm.cli.result", "results", "Print records as a table, JSON, CSV or Parquet"),
    "compare": ("farm.cli.compare", "compare", "Say what became faster or slower, from records or measured for it"),
    "explain": ("farm.cli.explain", "explain", "Say where a run's time goes, layer by layer, or what makes two differ"),
    "recommend": (
        "farm.cli.recommend",
        "recommend",
        "Say which workflow, precision and batch size fit stated limits best",
    ),
    "report": ("farm.cli.result", "report", "Write the HTML, Markdown and CSV report of sweeps"),
    "regressions": ("farm.cli.regressions", "regressions", "List, explain and accept what changed from night to night"),
    "demo-history": ("farm.cli.demo", "demo_history", "Write a made-up history of 30 nights, to look at"),
    "artifacts": ("farm.cli.artifact", "artifacts", "List, fetch, verify and clear up what runs left in the store"),
    "devices": ("farm.cli.device", "devices", "Show, drain, resume, quarantine or check devices"),
    "doctor": ("farm.cli.device", "doctor", "Check this machine and its farm, and say what to mend"),
    "probe": ("farm.cli.device", "probe", "Show this machine's devices and what its stacks can do"),
    "nightly": ("farm.cli.nightly", "nightly", "Measure every night, say what changed: run, status, install"),
    "broker": ("farm.cli.broker", "broker", "Prepare a Redis of your own: its users and their rights"),
    "worker": ("farm.cli.worker", "worker", "Serve one device of this machine, or invite one (runs until stopped)"),
    "store": ("farm.cli.store", "store", "Copy it, compact it, see what fills it, serve it to workers elsewhere"),
    "scheduler": ("farm.cli.serve", "scheduler", "Decide what runs when (runs until stopped; one per farm)"),
    "flower": ("farm.cli.serve", "flower", "Serve Flower's pages for this farm (runs until stopped)"),
    "metrics": ("farm.cli.monitor", "metrics", "Serve numbers for Prometheus, or print them once"),
    "healthcheck": ("farm.cli.monitor", "healthcheck", "Say whether one part of the farm is at work on this host"),
}


#: New objects between two looks for what is no longer used. Nearly all that a command makes are the libraries that it
#: imports, which stay; the interpreter's own 700 would have them looked through a hundred times.
_OBJECTS_BETWEEN_LOOKS = 50_000


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table: as a person meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a verb's command; None when there is no such verb."""
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Name the nearest verb when there is no such one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"; did you mean `farm {near[0]}`?" if near else "; `farm --help` lists the commands."
            raise click.UsageError(f"no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, row[2]) for name, row in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="farm")
@click.option("--debug", is_flag=True, help="Show tracebacks and log what happens (anywhere on the line).")
@click.option("--home", metavar="DIR", help="Where this host keeps its farm (FARM_HOME).")
@click.option("--store", metavar="DIR", help="The store's directory (FARM_STORE).")
@click.pass_context
def cli(ctx: click.Context, debug: bool, home: str | None, store: str | None) -> None:
    """Inferfarm: measure deep-learning inference on every device you own.

    \b
    Start here:
      farm run examples/quickstart.yaml         measure on this machine, print a table, write a report
      farm up; farm submit SWEEP.yaml --watch   the same on a farm that keeps running
      farm results --where "latency_ms < 10"    what was measured

    Exit codes: 0 all well; 1 some runs are not ok; 2 bad usage or a bad sweep; 3 the farm could not work.
    """
    ctx.obj = {"home": home, "store": store}


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    gc.set_threshold(_OBJECTS_BETWEEN_LOOKS)
    try:
        _main(argv)
    finally:
        # The interpreter looks through all objects twice before it ends; what is frozen is left out of that. DuckDB
        # counts its own at the end, and complains of those that are still there.
        if "duckdb" not in sys.modules:
            gc.freeze()


def _main(argv: list[str] | None) -> None:
    given = sys.argv[1:] if argv is None else argv
    # People add --debug at the end of the line that just failed, so it is taken anywhere.
    args = [arg for arg in given if arg != "--debug"]
    debug = len(args) < len(given)
    if debug:
        logging.basicConfig(level=logging.DEBUG)
    try:
        code = cli.main(args=args, prog_name="farm", standalone_mode=False)
        raise SystemExit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        raise SystemExit(EXIT_INTERRUPTED) from None
    except KeyboardInterrupt:
        click.echo("farm: interrupted", err=True)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        # The reader of our output went away (`farm results | head`): not an error, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except FarmError as error:
        _show(error, debug)
        raise SystemExit(error.exit_code) from None
    except Exception as error:  # noqa: BLE001 - the last boundary: nobody should meet a traceback unasked
        _show_unexpected(error, debug)
        raise SystemExit(3) from None


def _show(error: FarmError, debug: bool) -> None:
    click.echo(f"farm: {hide(error.message)}", err=True)
    problems = error.problems if isinstance(error, UsageError) else []
    for problem in problems:
        click.echo(f"  - {problem}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)
    if debug:
        click.echo(traceback_text(error), err=True, nl=False)


def _show_unexpected(error: Exception, debug: bool) -> None:
    import redis

    from farm.broker.connection import REFUSED_HINT, is_refusal

    if is_refusal(error):
        click.echo(f"farm: the broker does not let this user do that: {hide(str(error))}", err=True)
        click.echo(f"  {REFUSED_HINT}", err=True)
    elif isinstance(error, redis.RedisError):
        click.echo(f"farm: the broker went away: {hide(str(error))}", err=True)
        click.echo("  Check it with `farm doctor`; nothing that was recorded is lost.", err=True)
    else:
        click.echo(f"farm: unexpected error, which is a bug: {type(error).__name__}: {hide(str(error))}", err=True)
        click.echo("  Run again with --debug for the traceback, and please report it.", err=True)
    if debug:
        click.echo(traceback_text(error), err=True, nl=False)


if __name__ == "__main__":
    main()
