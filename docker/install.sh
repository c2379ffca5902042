#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Install the project into a virtual environment, from docker/wheels alone or from the package index as well.
# Usage: install.sh VENV [EXTRA]...     The layer of dependencies changes only with pyproject.toml and constraints.txt:
#        install.sh --dependencies VENV [EXTRA]... installs those, and needs none of the sources.
# A base whose python3 is older than 3.11 (a vendor's) gets one beside it by uv; its own stays the stack's.
set -eu

only_dependencies=
[ "${1:-}" = --dependencies ] && { only_dependencies=1; shift; }
venv=$1
shift
wheels=${WHEELS:-/wheels}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

make_venv() {
  if new_enough python3; then
    python3 -m venv "$venv"
    return
  fi
  python3 -m pip install --no-cache-dir --target /tmp/uv --find-links "$wheels" uv
  UV_PYTHON_INSTALL_DIR=/opt/python PYTHONPATH=/tmp/uv python3 -m uv venv --seed --python 3.12 "$venv"
  rm -rf /tmp/uv
}

pip_install() {
  # shellcheck disable=SC2086 # PIP_ARGS is words, such as --no-index
  "$venv/bin/pip" install --no-cache-dir --disable-pip-version-check ${PIP_ARGS:-} --find-links "$wheels" "$@"
}

extras=$(printf '%s,' "$@")
extras=${extras%,}

if [ -n "$only_dependencies" ]; then
  [ -x "$venv/bin/pip" ] || make_venv
  # The project's requirements without the project: its metadata names them, and an empty package carries it.
  mkdir -p /tmp/empty/farm
  cp pyproject.toml /tmp/empty/
  touch /tmp/empty/LICENSE /tmp/empty/README.md
  echo '__version__ = "0"' > /tmp/empty/farm/__init__.py
  pip_install -c constraints.txt "setuptools>=77" wheel
  pip_install -c constraints.txt --no-build-isolation "/tmp/empty${extras:+[$extras]}"
  "$venv/bin/pip" uninstall -q -y inferfarm
  rm -rf /tmp/empty
else
  pip_install --no-deps --no-build-isolation .
fi
