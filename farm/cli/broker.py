# SPDX-License-Identifier: Apache-2.0
"""`farm broker`: prepare a Redis of one's own for the farm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from farm.broker.acl import BY_NAME, ROLES

if TYPE_CHECKING:
    from farm.broker.acl import User


@click.group()
def broker() -> None:
    """Prepare a Redis or Valkey of your own for the farm: its users and their rights."""


@broker.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(list(BY_NAME)),
    help="Only this role's user; may be repeated. Default: "
    + ", ".join(role.name for role in ROLES if role.usual)
    + ".",
)
@click.option(
    "--device",
    "devices",
    metavar="ID",
    multiple=True,
    help="A worker's user for this device alone, in place of one for all workers; may be repeated.",
)
@click.option(
    "--renew",
    metavar="USER",
    multiple=True,
    help="Make a new password for this user; the one before stays good until its file is removed. May be repeated.",
)
def acl(directory: Path, roles: tuple[str, ...], devices: tuple[str, ...], renew: tuple[str, ...]) -> int:
    """Print the ACL file for a Redis that the farm's parts share, with one user for each role.

    The password of USER is in DIRECTORY/USER.password: one that you put there, its digest as `sha256:HEX`, or a new
    one, made now, in a file that only you can read. What is printed holds digests alone. docs/security.md has the
    whole set-up.

    --renew moves DIRECTORY/USER.password to USER.password.old. While that file is there, both passwords are good: bring
    the new one to its host, restart that part, remove the file, and print once more.

    \b
    Examples:
      farm broker acl passwords > users.acl      (then in redis.conf: aclfile /etc/redis/users.acl)
      farm broker acl passwords --renew worker > users.acl
    """
    from farm.broker.acl import render, user_name

    wanted = [role.name for role in ROLES if (role.name in roles if roles else role.usual)]
    names = [(role, device) for role in wanted for device in (devices if role == "worker" and devices else (None,))]
    _make_room(directory, renew, [user_name(role, device) for role, device in names])
    click.echo(render([_user(directory, role, device) for role, device in names]), nl=False)
    return 0


def _user(directory: Path, role: str, device: str | None) -> User:
    from farm.broker.acl import User, digest_of, user_name
    from farm.secrets import password_in, read_secret

    name = user_name(role, device)
    path = directory / f"{name}.password"
    if not path.exists():
        click.echo(f"a password for {name} is in {path}", err=True)
    digest = digest_of(password_in(path), str(path))
    old = _former(path)
    former = digest_of(read_secret(old, "the former password", str(old)), str(old)) if old.exists() else None
    return User(name, BY_NAME[role], digest, device, former)


def _former(path: Path) -> Path:
    return path.with_name(path.name + ".old")


def _make_room(directory: Path, renew: Sequence[str], names: Sequence[str]) -> None:
    """Set the passwords aside that are to be new. All or none: what cannot be renewed is said first."""
    from farm.errors import UsageError

    for name in renew:
        path = directory / f"{name}.password"
        if name not in names:
            raise UsageError(f"no user {name!r} is printed", hint=f"Users: {', '.join(names)}.")
        if not path.exists():
            raise UsageError(f"{path}: there is no password to renew", hint="Without --renew, one is made.")
        if _former(path).exists():
            hint = f"Remove {_former(path)} once nobody uses that password."
            raise UsageError(f"the password of {name} before this one is still good", hint=hint)
    for name in renew:
        path = directory / f"{name}.password"
        path.rename(_former(path))
