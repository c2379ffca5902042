#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make what the lab's hosts are made of, once: a Debian root, a repository of the packages that the playbook installs,
# and the wheels that `farm` and its building need, chosen by the hosts' own Python. Usage: base.sh DIR
# MIRROR names a Debian mirror. Needs root and the packages mmdebstrap, dpkg-dev.
set -euo pipefail
dir=${1:?usage: base.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
mirror=${MIRROR:-http://deb.debian.org/debian}
# What a freshly installed Debian server has, as far as the play needs it.
bare=systemd-sysv,dbus,openssh-server,python3,python3-apt,iproute2,ca-certificates
# What the play adds; the hosts see no other packages than these and what they depend on.
added=(openssl redis-server python3-venv)

stamp_of() { sha256sum | cut -c1-16; }

# A mirror may be away for a moment, and a machine that starts empty asks it for everything.
try() {
  local turn
  for turn in 1 2 3; do
    if "$@"; then return 0; fi
    echo "base: attempt $turn of 3 failed: $1" >&2
    sleep $((turn * 5))
  done
  return 1
}

make_root() {
  rm -rf --one-file-system "$dir/root"
  mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Retries "5"' --include="$bare" bookworm "$dir/root" "$mirror"
}

mkdir -p "$dir"
# One at a time: two runs may share the directory.
exec 9>"$dir/lock"
flock 9
root_stamp=$(echo "bookworm $bare" | stamp_of)
if [ "$(cat "$dir/root.stamp" 2>/dev/null)" != "$root_stamp" ]; then
  echo "base: making the Debian root" >&2
  rm -rf --one-file-system "$dir/root.stamp" "$dir/debs" "$dir/wheels.stamp"
  try make_root
  echo "$root_stamp" >"$dir/root.stamp"
fi

wheels_stamp=$(cat "$0" "$repo/pyproject.toml" "$repo/constraints.txt" | stamp_of)
[ "$(cat "$dir/wheels.stamp" 2>/dev/null)" != "$wheels_stamp" ] || exit 0
echo "base: fetching packages and wheels with the hosts' apt and Python" >&2
mkdir -p "$dir/debs" "$dir/wheels"
export dir repo

fetch() {
  # In a mount namespace of its own: what is mounted here goes with it, whatever happens.
  unshare --mount --propagation private bash -euo pipefail -s -- "${added[@]}" <<'INSIDE'
work=$(mktemp -d)
trap 'umount -R "$work/at" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/up" "$work/wk" "$work/at"
mount -t overlay lab -o "lowerdir=$dir/root,upperdir=$work/up,workdir=$work/wk" "$work/at"
at=$work/at
mount --bind /dev "$at/dev"
mount -t proc proc "$at/proc"
cp /etc/resolv.conf "$at/etc/resolv.conf"
cp /etc/hosts "$at/etc/hosts"
# A network may have an authority of its own.
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt "$at/etc/ssl/certs/ca-certificates.crt"
mkdir -p "$at/lab/debs" "$at/lab/wheels" "$at/lab/src"
mount --bind "$dir/debs" "$at/lab/debs"
mount --bind "$dir/wheels" "$at/lab/wheels"
cp "$repo/pyproject.toml" "$repo/constraints.txt" "$at/lab/src"
# This machine's pip settings name places that are not in there; its authority is.
unset PIP_FIND_LINKS
inside() { DEBIAN_FRONTEND=noninteractive chroot "$at" "$@"; }
apt() { inside apt-get -qq -o Acquire::Retries=5 "$@"; }
apt update
# Without systemd's deb-triggered starts: nothing may run in here.
printf '#!/bin/sh\nexit 101\n' >"$at/usr/sbin/policy-rc.d" && chmod 755 "$at/usr/sbin/policy-rc.d"
apt install -y --no-install-recommends --download-only -o Dir::Cache::archives=/lab/debs "$@"
apt install -y --no-install-recommends python3-venv >/dev/null
inside python3 -m venv /lab/venv
inside /lab/venv/bin/python - >"$at/lab/requirements.txt" <<'PY'
import tomllib
project = tomllib.load(open("/lab/src/pyproject.toml", "rb"))
for line in project["project"]["dependencies"] + project["build-system"]["requires"]:
    print(line)
PY
inside /lab/venv/bin/pip download -q --retries 10 --only-binary :all: \
  -c /lab/src/constraints.txt -d /lab/wheels -r /lab/requirements.txt
INSIDE
}

try fetch
(cd "$dir/debs" && rm -rf partial lock && dpkg-scanpackages -m . >Packages 2>/dev/null && gzip -kf Packages)
echo "$wheels_stamp" >"$dir/wheels.stamp"
