#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make .venv with the project in it. Usage: tools/setup.sh cpu | dev | tensorflow
#   cpu: what `make demo` needs.   dev: that, and what the tests and checks need (Chromium too, where apt and root are).
#   tensorflow: .venv-tensorflow, a stack apart with TensorFlow for CPUs and nothing of the project.
# PYTHON names the interpreter (3.11 or newer); PIP_ARGS goes to every `pip install`.
set -euo pipefail
cd "$(dirname "$0")/.."
want=${1:?usage: tools/setup.sh cpu|dev|tensorflow}

say() { printf 'setup: %s\n' "$*" >&2; }

retry() { # the network fails now and then: three tries, with a pause that grows
  local try
  for try in 1 2 3; do
    "$@" && return 0
    [ "$try" = 3 ] || { say "that failed; trying again in $((try * 5)) s"; sleep $((try * 5)); }
  done
  return 1
}

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
  retry apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive retry apt-get install -y -q --no-install-recommends "$@" >/dev/null
}

apt_install_quietly() { # packages whose services must not start on this machine
  local policy=/usr/sbin/policy-rc.d
  if [ -e $policy ]; then apt_install "$@"; return; fi
  printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy
  apt_install "$@" || { rm -f $policy; return 1; }
  rm -f $policy
}

find_python() {
  local name
  for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return 0
    fi
  done
  say "no Python 3.11 or newer; install one, or name it: PYTHON=/path/to/python3.12 make $want"
  return 1
}

make_venv() {
  local python
  python=$(find_python)
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    can_apt || { say "$python has no venv module: sudo apt-get install python3-venv"; return 1; }
    apt_install python3-venv
  fi
  say "making .venv with $python"
  "$python" -m venv .venv
}

make_tensorflow() { # its wheels are for Python 3.10 to 3.13
  local name python='' wanted=tensorflow
  [ "$(uname -m)" = x86_64 ] && wanted=tensorflow-cpu
  for name in ${PYTHON:-python3.13 python3.12 python3.11 python3.10 python3}; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null
    then python=$(command -v "$name"); break; fi
  done
  [ -n "$python" ] || { say "no Python 3.10 to 3.13 for TensorFlow; name one: PYTHON=/path make setup-tensorflow"; return 1; }
  say "making .venv-tensorflow with $python and $wanted"
  "$python" -m venv .venv-tensorflow
  # shellcheck disable=SC2086
  retry .venv-tensorflow/bin/pip install -q --no-compile ${PIP_ARGS:-} "$wanted==2.21.0"
  touch .venv-tensorflow/.ready
}

if [ "$want" = tensorflow ]; then make_tensorflow; exit; fi
[ -x .venv/bin/pip ] || make_venv
say "installing the project ($want); the first time takes a minute or two"
# shellcheck disable=SC2086
retry .venv/bin/pip install -q ${PIP_ARGS:-} -c constraints.txt -e '.[cpu]'
touch .venv/.ready-cpu
if [ "$want" = dev ]; then
  # shellcheck disable=SC2086
  retry .venv/bin/pip install -q ${PIP_ARGS:-} -c constraints.txt -e '.[cpu,quantization,dev]'
  if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && can_apt; then
    say "installing Chromium for the tests of pages"
    apt_install chromium
  fi
  if ! command -v g++ >/dev/null && can_apt; then
    say "installing g++ for the tests of torch.compile"
    apt_install g++
  fi
  if ! { command -v redis-server || command -v valkey-server || command -v redis-check-rdb; } >/dev/null && can_apt; then
    # Not redis-server, which would start a server on this machine: redis-tools has the same program in it.
    say "installing redis-tools for the tests of TLS and ACL users"
    apt_install redis-tools openssl
  fi
  if ! PATH=$PATH:/usr/sbin command -v nginx >/dev/null && can_apt; then
    say "installing nginx for the tests of the proxy"
    apt_install_quietly nginx-light openssl
  fi
  touch .venv/.ready-dev
fi
