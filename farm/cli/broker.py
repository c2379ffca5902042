# SPDX-License-Identifier: Apache-2.0
"""`farm broker`: prepare a Redis of one's own for the farm."""

from __future__ import annotations

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
def acl(directory: Path, roles: tuple[str, ...], devices: tuple[str, ...]) -> int:
    """Print the ACL file for a Redis that the farm's parts share, with one user for each role.

    The password of USER is in DIRECTORY/USER.password: one that you put there, its digest as `sha256:HEX`, or a new
    one, made now, in a file that only you can read. What is printed holds digests alone. docs/security.md has the
    whole set-up.

    \b
    Example:
      farm broker acl passwords > users.acl      (then in redis.conf: aclfile /etc/redis/users.acl)
    """
    from farm.broker.acl import render

    wanted = [role.name for role in ROLES if (role.name in roles if roles else role.usual)]
    names = [(role, device) for role in wanted for device in (devices if role == "worker" and devices else (None,))]
    click.echo(render([_user(directory, role, device) for role, device in names]), nl=False)
    return 0


def _user(directory: Path, role: str, device: str | None) -> User:
    from farm.broker.acl import User, digest_of, user_name
    from farm.secrets import password_in

    name = user_name(role, device)
    path = directory / f"{name}.password"
    if not path.exists():
        click.echo(f"a password for {name} is in {path}", err=True)
    return User(name, BY_NAME[role], digest_of(password_in(path), str(path)), device)
