# SPDX-License-Identifier: Apache-2.0
"""`farm worker`: serve a device, after joining the farm with a one-time token; and the invitations for that."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from farm.cli.common import open_farm

if TYPE_CHECKING:
    from farm.joining import Joined
    from farm.settings import Settings
    from farm.store_service.access import Invitation

_KINDS = click.Choice(["cpu", "gpu", "soc"])


@click.group(invoke_without_command=True)
@click.option("--device", metavar="ID", help="The device to serve (default: this machine's CPU).")
@click.option("--join", "url", metavar="URL", help="First join the farm whose store is at URL, with a one-time token.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    help="With --join: where the token is, - for standard input (default: FARM_JOIN_TOKEN, or it is asked for).",
)
@click.option("--no-start", is_flag=True, help="With --join: write this machine's settings, and no more.")
@click.pass_context
def worker(ctx: click.Context, device: str | None, url: str | None, token_file: Path | None, no_start: bool) -> int:
    """Serve one device of this machine: one job at a time, alone on its hardware.

    A second worker for the same device is refused. SIGTERM lets the running job finish first.

    \b
    On another machine than the controller:
      farm worker --join https://CONTROLLER:8470         with the token of `farm worker invite` there
    or, with the store mounted:
      FARM_BROKER_URL=redis://HOST:PORT/0 FARM_BROKER_PASSWORD_FILE=password FARM_STORE=/mnt/store farm worker
    """
    if ctx.invoked_subcommand is not None:
        return 0
    if url is None and (token_file or no_start):
        raise click.UsageError("--token-file and --no-start go with --join")
    # Where joining is to write settings there need be none yet.
    named = os.environ.pop("FARM_CONFIG", None) if url is not None else None
    settings = open_farm(ctx).settings
    if url is not None:
        path = Path(named or "~/.config/inferfarm/farm.toml").expanduser().absolute()
        settings, device = _join(settings, url, token_file, device, path)
    if no_start:
        return 0
    from workers.daemon.serve import serve

    serve(settings, device)
    return 0


@worker.command()
@click.argument("name")
@click.option("--device-kind", type=_KINDS, help="Serve this machine's one device of this kind (default: its CPU).")
@click.option("--device", "devices", metavar="ID", multiple=True, help="Only this device's records; may be repeated.")
@click.option(
    "--hours", type=click.FloatRange(0.01, 24 * 14), default=24.0, show_default=True, help="How long it lasts."
)
@click.option("--store-url", metavar="URL", help="Where the worker reaches the store (default FARM_STORE_URL).")
@click.option("--broker-url", metavar="URL", help="Where the worker reaches the broker (default: as this farm does).")
@click.option(
    "--passwords",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The directory of `farm broker acl`: the worker gets the password of its role, or of its one device's user, "
    "and USER.crt with USER.key, if they are there.",
)
@click.pass_context
def invite(
    ctx: click.Context,
    name: str,
    device_kind: str | None,
    devices: tuple[str, ...],
    hours: float,
    store_url: str | None,
    broker_url: str | None,
    passwords: Path | None,
) -> int:
    """Print a token with which one machine joins this farm, once. On the controller, beside `farm store serve`.

    The broker's password is not in it: the worker gets that, its own token for the store, the farm's certificate and,
    for a broker that asks for one, a certificate with its key over TLS, from the authority whose fingerprint the token
    carries.
    """
    from farm.errors import UsageError
    from farm.joining import certificate_fingerprint
    from farm.store.link import parse_url
    from farm.store_service.access import Access, Invitation

    settings = open_farm(ctx).settings
    url = store_url or settings.store_url
    if url is None or not parse_url(url).tls:
        raise UsageError("where do workers reach the store?", hint="--store-url https://THIS-HOST:8470")
    if settings.store_ca_file is None:
        raise UsageError("store_ca_file is not set: workers could not tell this farm", hint="See docs/deploy.md.")
    try:
        fingerprint = certificate_fingerprint(settings.store_ca_file.expanduser().read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"store_ca_file: {settings.store_ca_file} cannot be read: {error}") from error
    broker, user, password_file = _broker(settings, broker_url, passwords, devices)
    made = Invitation(name, devices, device_kind, url, broker, user, password_file, *_certificate(passwords, user))
    _show(made, str(Access(settings.access_dir).invite(made, fingerprint, hours)), hours)
    return 0


def _show(made: Invitation, token: str, hours: float) -> None:
    """The token alone on standard output, so that it can go straight into a file."""
    click.echo(token)
    click.echo(f"It lets {made.name} join once, within {hours:g} h. There, with the token pasted when asked:", err=True)
    click.echo(f"  farm worker --join {made.store_url}", err=True)


def _broker(
    settings: Settings, url: str | None, passwords: Path | None, devices: tuple[str, ...]
) -> tuple[str, str | None, str | None]:
    """The broker as the worker gets it: URL, user, and the file that holds the password."""
    from farm.broker.acl import user_name
    from farm.broker.connection import shared_broker
    from farm.errors import UsageError

    own_url, own_password = shared_broker(settings)
    if passwords is None:
        if settings.broker_url:
            hint = "--passwords DIRECTORY, the one of `farm broker acl DIRECTORY`."
            raise UsageError("which user is the worker to be at the broker? This farm's own may do more", hint=hint)
        return url or own_url, None, None if own_password is None else str(own_password)
    names = [user_name("worker", device) for device in devices[:1] if len(devices) == 1] + ["worker"]
    for name in names:
        path = (passwords / f"{name}.password").absolute()
        if path.is_file():
            return url or own_url, name, str(path)
    raise UsageError(f"{passwords} has no {names[-1]}.password", hint=f"farm broker acl {passwords}")


def _certificate(passwords: Path | None, user: str | None) -> tuple[str | None, str | None]:
    """The files of the user's certificate and of its key; None for those that the broker's directory does not have."""
    from farm.errors import UsageError

    if passwords is None or user is None:
        return None, None
    cert, key = ((passwords / f"{user}{end}").absolute() for end in (".crt", ".key"))
    if cert.is_file() != key.is_file():
        raise UsageError(f"of {cert.name} and {key.name} in {passwords}, one is missing", hint="Make both, or none.")
    return (str(cert), str(key)) if cert.is_file() else (None, None)


def _join(
    settings: Settings, url: str, token_file: Path | None, device: str | None, path: Path
) -> tuple[Settings, str | None]:
    """Join, write this machine's settings, and read them as the next start will."""
    from farm.joining import check_free, join, write_settings
    from farm.settings import load_settings
    from farm.store_service.access import JoinToken

    check_free(path)
    joined = join(url, JoinToken.parse(_token(token_file)))
    # The token is spent: whatever else may be wrong, what it brought is kept.
    write_settings(joined, path, settings, device)
    click.echo(f"joined; this machine's settings are in {path}", err=True)
    device = device or _device(settings, joined)
    write_settings(joined, path, settings, device)
    os.environ["FARM_CONFIG"] = str(path)
    return load_settings(), device


def _token(file: Path | None) -> str:
    if file is not None:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    return os.environ.pop("FARM_JOIN_TOKEN", "") or str(click.prompt("token", hide_input=True))


def _device(settings: Settings, joined: Joined) -> str | None:
    """The device that the invitation is for; None if it is for none in particular."""
    from farm.errors import UsageError
    from workers.daemon.probe import devices

    if joined.device_kind is None and not joined.devices:
        return None
    found = [
        one.device_id
        for one in devices(settings)
        if (not joined.devices or one.device_id in joined.devices) and joined.device_kind in (None, one.kind)
    ]
    if len(found) == 1:
        return found[0]
    asked = joined.device_kind or ", ".join(joined.devices)
    there = ", ".join(found) or "none"
    raise UsageError(
        f"the invitation is for {asked}, of which this machine has {there}", hint="--device ID says which."
    )
