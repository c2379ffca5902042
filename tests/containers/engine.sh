#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run a command where a Docker engine with compose answers and the images' base can be had: engine.sh DIR COMMAND...
# The engine that is here is used. Where there is none, as root on Debian, one is started for as long as the command
# runs, in a network namespace and with files of its own below DIR. Where the base cannot be pulled, a Debian root stands
# in for it, with wheels that its own Python chose in docker/wheels. BASE, REDIS_IMAGE and PIP_ARGS, if set, are kept.
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
shift
repo=$(cd "$(dirname "$0")/../.." && pwd)
image=python:3.12-slim-bookworm

say() { printf 'images: %s\n' "$*" >&2; }

need() { # PROGRAM PACKAGE...: install the packages if the program is not here
  command -v "$1" >/dev/null && return
  shift
  say "installing $*"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Debian 12 has no compose plugin; that of Debian 13 runs on it. Fetched by apt, so with its signature checked.
plugins() {
  docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && return
  [ "${DOCKER_CONFIG:-}" = "$dir/config" ] || return 1
  local site lists=$dir/lists
  # shellcheck disable=SC2016 # apt's own word
  site=$(apt-get indextargets --format '$(SITE)' | grep -m1 /debian) || return 1
  mkdir -p "$lists/partial" "$dir/debs" "$dir/config/cli-plugins"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site trixie main" >"$dir/trixie.list"
  local apt=(-qq -o "Dir::Etc::sourcelist=$dir/trixie.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$lists")
  say "fetching the plugins compose and buildx"
  apt-get "${apt[@]}" update
  (cd "$dir/debs" && chmod 755 . && apt-get "${apt[@]}" -o APT::Sandbox::User=root download docker-compose docker-buildx)
  local deb
  for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$dir/unpacked"; done
  cp "$dir"/unpacked/usr/libexec/docker/cli-plugins/* "$dir/config/cli-plugins/"
}

start_engine() {
  [ "$(id -u)" = 0 ] || { say "no Docker engine answers, and without root none can be started"; exit 1; }
  command -v dockerd >/dev/null || printf '#!/bin/sh\nexit 101\n' | install -m 755 /dev/stdin "$dir/policy"
  if [ -e "$dir/policy" ] && [ ! -e /usr/sbin/policy-rc.d ]; then # Debian's package would start one for this machine
    cp "$dir/policy" /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' RETURN
  fi
  need dockerd docker.io iptables
  need ip iproute2
  export DOCKER_CONFIG=$dir/config DOCKER_HOST=unix://$dir/docker.sock
  mkdir -p "$dir/config"
  say "starting an engine in $dir"
  # Not `ip netns exec`, which mounts a /sys without control groups. Without CAP_SYS_RESOURCE the default limits fail.
  unshare --net -- sh -c 'ip link set lo up && exec "$@"' engine dockerd --host "$DOCKER_HOST" --data-root "$dir/data" \
    --exec-root "$dir/exec" --pidfile "$dir/pid" --default-ulimit nofile=20000:20000 >"$dir/engine.log" 2>&1 &
  engine=$!
  trap 'kill $engine 2>/dev/null; wait $engine || true' EXIT
  for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && return
    kill -0 $engine || break
    sleep 0.5
  done
  tail -n 5 "$dir/engine.log" >&2
  say "the engine did not start; its log is $dir/engine.log"
  exit 1
}

stand_in() {
  need mmdebstrap mmdebstrap
  local root=$dir/base.tar
  if [ ! -s "$root" ]; then
    say "making a Debian root"
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv,redis-server,redis-tools \
      bookworm "$root.new"
    mv "$root.new" "$root"
  fi
  docker image inspect stand-in:bookworm >/dev/null 2>&1 || docker import "$root" stand-in:bookworm >/dev/null
  local stamp
  stamp=$(cat "$0" "$repo/pyproject.toml" "$repo/constraints.txt" | sha256sum)
  if [ "$(cat "$dir/wheels.stamp" 2>/dev/null)" != "$stamp" ]; then
    say "fetching wheels with that root's Python into docker/wheels"
    wheels "$root"
    echo "$stamp" >"$dir/wheels.stamp"
  fi
}

# In a mount namespace of its own: what is mounted here goes with it, whatever happens.
wheels() {
  rm -rf --one-file-system "$dir/root"
  mkdir -p "$dir/root" "$dir/wheels"
  tar -C "$dir/root" -xf "$1"
  # A network may have an authority and wheels of its own.
  dir=$dir repo=$repo found=${PIP_FIND_LINKS:-} unshare --mount --propagation private bash -euo pipefail <<'INSIDE'
at=$dir/root
cp /etc/resolv.conf /etc/hosts "$at/etc/"
cp /etc/ssl/certs/ca-certificates.crt "$at/etc/ssl/certs/ca-certificates.crt"
mkdir -p "$at/w" "$at/src" "$at/found"
mount --bind /dev "$at/dev"
mount -t proc proc "$at/proc"
mount --bind "$dir/wheels" "$at/w"
[ ! -d "$found" ] || mount --bind "$found" "$at/found"
cp "$repo/pyproject.toml" "$repo/constraints.txt" "$at/src/"
unset PIP_FIND_LINKS
chroot "$at" python3 -m venv /venv
chroot "$at" /venv/bin/python - >"$at/requirements.txt" <<'PY'
import tomllib
project = tomllib.load(open("/src/pyproject.toml", "rb"))["project"]
print("\n".join([*project["dependencies"], *project["optional-dependencies"]["cpu"], "setuptools>=77", "wheel"]))
PY
chroot "$at" /venv/bin/pip download -q --only-binary :all: --find-links /found -c /src/constraints.txt -d /w -r /requirements.txt
INSIDE
  rm -rf --one-file-system "$dir/root"
}

need docker docker.io
docker info >/dev/null 2>&1 || start_engine
plugins || { say "this Docker has no compose or buildx plugin: install them"; exit 1; }
if [ -z "${BASE:-}" ] && ! timeout 60 docker pull -q "$image" >/dev/null 2>&1; then
  say "$image cannot be pulled: a Debian 12 root stands in for it"
  stand_in
  ln -f "$dir"/wheels/*.whl "$repo/docker/wheels/" 2>/dev/null || cp "$dir"/wheels/*.whl "$repo/docker/wheels/"
  export BASE=stand-in:bookworm REDIS_IMAGE=stand-in:bookworm PIP_ARGS=--no-index
fi
"$@"
