# SPDX-License-Identifier: Apache-2.0
"""What a host needs to pass for a Jetson before the role `jetson`: stand-ins of its two programs, and its power modes.

They say nothing of a board: they hold the role to how NVIDIA's programs are called and what they answer.
"""

from __future__ import annotations

from tests.deploy.lab import Host

MODES = """\
# One of them asks for a reboot.
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=MODE_10W >
< POWER_MODEL ID=2 NAME=MODE_15W >
< PM_CONFIG DEFAULT=2 >
"""

NVPMODEL = """\
#!/bin/sh
state=/var/lib/nvpmodel.mode
now=$(cat $state 2>/dev/null || echo 2)
case "$1" in
-q) echo "NV Power Mode: MODE_$now"; echo "$now" ;;
-m)
  echo "asked for $2" >>/var/lib/nvpmodel.log
  if [ "$2" = 1 ]; then
    echo "NVPM WARN: Reboot required for changing to this power mode: $2"
    echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
    read -r answer
    case "$answer" in YES | yes) reboot ;; *) exit 0 ;; esac
  fi
  echo "$2" >$state ;;
esac
"""

JETSON_CLOCKS = """\
#!/bin/sh
case "$1" in
--store)
  if [ -e "$2" ]; then
    echo "File $2 already exists. Can I overwrite it? Y/N:"
    read -r answer && [ "$answer" = Y ] || exit 1
  fi
  echo "free" >"$2" ;;
--restore) cp "$2" /run/clocks ;;
"") echo "locked in mode $(cat /var/lib/nvpmodel.mode)" >/run/clocks ;;
esac
"""

#: Its variables in the inventory.
VARIABLES = {"jetson_stack": "jetpack", "jetson_power_mode": "MAXN", "jetson_lock_clocks": True}


def pass_for_jetson(host: Host) -> None:
    """Put the stand-ins onto the host."""
    (host.root / "etc/nvpmodel.conf").write_text(MODES)
    for path, text in (("usr/sbin/nvpmodel", NVPMODEL), ("usr/bin/jetson_clocks", JETSON_CLOCKS)):
        (host.root / path).write_text(text)
        (host.root / path).chmod(0o755)
