# SPDX-License-Identifier: Apache-2.0
"""The systemd unit that keeps `farm nightly run --serve` running, hardened: it writes to the farm's home and store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from farm.errors import UnavailableError, UsageError
from farm.settings import Settings, config_file

NAME = "farm-nightly.service"

_UNIT = """\
# Made by `farm nightly install`; docs/nightly.md
[Unit]
Description=Inferfarm nightly: measures, judges and reports every night
Documentation=https://github.com/inferfarm/inferfarm
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
{environment}{user}WorkingDirectory={directory}
Restart=always
RestartSec=10
# A night that runs is left at its next step and gone on with after the start.
TimeoutStopSec=120
KillMode=mixed
UMask=0027
NoNewPrivileges=yes
{system}PrivateTmp=yes
ProtectSystem=strict
{home}ReadWritePaths={writable}
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
KeyringMode=private

[Install]
WantedBy={target}
"""
#: What only the system's manager can do for a unit.
_SYSTEM = """\
CapabilityBoundingSet=
PrivateDevices=yes
ProtectProc=invisible
RemoveIPC=yes
"""


def unit(settings: Settings, *, user_unit: bool, user: str = "", python: str = sys.executable) -> str:
    """The unit's text: for the system's manager as `user`, or with `user_unit` for a person's own.

    Raises:
        UsageError: a path has characters that a unit cannot hold.
    """
    config = config_file()
    writable = [settings.home, settings.store_dir, settings.nightly_report_dir]
    if settings.nightly.notify.file is not None:
        writable.append(
            (config or Path.cwd() / "x").absolute().parent / settings.nightly.notify.file.expanduser().parent
        )
    given = (
        {"FARM_CONFIG": config.absolute()} if config else {"FARM_HOME": settings.home, "FARM_STORE": settings.store_dir}
    )
    return _UNIT.format(
        command=" ".join(_word(word) for word in (python, "-m", "farm.cli.main", "nightly", "run", "--serve")),
        environment="".join(f"Environment={_word(f'{name}={value}')}\n" for name, value in given.items()),
        user="" if user_unit or not user else f"User={_word(user)}\n",
        directory=_word(str(settings.home)),
        system="" if user_unit else _SYSTEM,
        home="" if user_unit or _in_home(writable) else "ProtectHome=yes\n",
        writable=" ".join(_word(f"-{path}") for path in dict.fromkeys(writable)),
        target="default.target" if user_unit else "multi-user.target",
    )


def _in_home(paths: list[Path]) -> bool:
    return any(str(path).startswith(("/home/", "/root/", "/run/user/")) for path in paths)


def _word(text: str) -> str:
    """A word as units have it: quoted where needed, `%` doubled."""
    if any(c in text for c in "\n\r\0"):
        raise UsageError(f"{text!r} cannot be written into a unit", hint="Use a path on one line.")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(c in escaped for c in " \"'") else escaped


def write_unit(text: str, directory: Path) -> Path:
    """Write the unit into a directory, made if it is not there.

    Raises:
        UsageError: it cannot be written.
    """
    path = directory / NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="Name a directory that you may write to."
        ) from error
    return path


def default_directory(*, user_unit: bool) -> Path:
    """Where systemd looks: the system's directory, or a person's own."""
    if not user_unit:
        return Path("/etc/systemd/system")
    config = os.environ.get("XDG_CONFIG_HOME", "~/.config")  # systemd's own variable, not the farm's
    return Path(config).expanduser() / "systemd" / "user"


def enable(*, user_unit: bool) -> None:
    """Have systemd read, enable and start the unit.

    Raises:
        UnavailableError: systemd refuses, or is not there.
    """
    systemctl = ["systemctl", *(["--user"] if user_unit else [])]
    for words in (["daemon-reload"], ["enable", "--now", NAME]):
        try:
            done = subprocess.run([*systemctl, *words], capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"systemctl cannot be run: {error}", hint="Is this host run by systemd?") from error
        if done.returncode:
            raise UnavailableError(
                f"systemctl {' '.join(words)} failed: {done.stderr.strip() or done.returncode}",
                hint="A system unit needs root; `--user` needs none.",
            )
