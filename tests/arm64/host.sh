#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What can be proven of a Jetson without one: that the wheels of a worker resolve for the Pythons and C libraries of
# JetPack 5 and 6, and that a farm installed from aarch64 wheels runs a job on an emulated aarch64 host.
# Usage: host.sh DIR (kept for the next time).     Root, Debian; PYTHON names the interpreter that builds the farm's wheel.
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
repo=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}

say() { printf 'arm64: %s\n' "$*"; }

[ "$(id -u)" = 0 ] || { say "an emulated host needs root"; exit 1; }
missing=()
command -v qemu-aarch64-static >/dev/null || missing+=(qemu-user-static)
command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
command -v arch-test >/dev/null || missing+=(arch-test)
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# JetPack 5 is Ubuntu 20.04 with glibc 2.31, JetPack 6 is 22.04 with 2.35. The farm's own Python there is 3.11 or 3.12, put
# beside JetPack's. Real resolution, with dependencies: a list without them would not look at Requires-Python.
"$python" - "$repo" >"$dir/requirements.txt" <<'PY'
import sys, tomllib
for line in tomllib.load(open(f"{sys.argv[1]}/pyproject.toml", "rb"))["project"]["dependencies"]:
    print(line)
PY
"$python" -m venv "$dir/resolver"
for version in 3.11 3.12; do
  for glibc in 31 35; do
    platforms=(--platform manylinux2014_aarch64)
    for minor in $(seq 17 $glibc); do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
    "$dir/resolver/bin/pip" install -q --disable-pip-version-check --dry-run --ignore-installed --target "$dir/none" \
      --only-binary :all: --implementation cp --python-version $version "${platforms[@]}" \
      -c "$repo/constraints.txt" -r "$dir/requirements.txt" --report "$dir/report.json"
    count=$("$python" -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["install"]))' "$dir/report.json")
    say "resolved for aarch64, Python $version, glibc 2.$glibc: $count wheels"
  done
done

rm -rf "$dir/wheel"
"$dir/resolver/bin/pip" wheel -q --disable-pip-version-check --no-deps -w "$dir/wheel" "$repo"

# In a mount namespace of its own: the emulator's entry and all that is mounted go with it, whatever happens.
export dir repo
unshare --mount --propagation private bash -euo pipefail <<'INSIDE'
say() { printf 'arm64: %s\n' "$*"; }
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] ||
  printf '%s' ':qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:F' \
    >/proc/sys/fs/binfmt_misc/register
if [ ! -s "$dir/root.tar" ]; then
  say "making an aarch64 Debian root"
  mmdebstrap --quiet --arch=arm64 --variant=minbase --include=python3,python3-venv bookworm "$dir/root.tar.new"
  mv "$dir/root.tar.new" "$dir/root.tar"
fi
at=$dir/root
rm -rf --one-file-system "$at"
mkdir "$at"
tar -C "$at" -xf "$dir/root.tar"
cp /etc/resolv.conf /etc/hosts "$at/etc/"
mkdir -p "$at/etc/ssl/certs" # a network may have an authority of its own
cp /etc/ssl/certs/ca-certificates.crt "$at/etc/ssl/certs/ca-certificates.crt"
mount --bind /dev "$at/dev"
mount -t proc proc "$at/proc"
mount -t sysfs -o ro sysfs "$at/sys"
mkdir -p "$at/wheel" "$at/run/lock/inferfarm"
cp "$dir"/wheel/*.whl "$repo/constraints.txt" "$at/wheel/"
cat >"$at/sweep.yaml" <<'YAML'
name: emulated
protocol: {base: quick, warmup_min_iterations: 1, warmup_min_s: 0.0, min_iterations: 10, min_s: 0.0}
models: [resnet18]
workflows: [{name: fake, latency_ms: 20.0}]
precisions: [fp32]
batch: [1, 2]
YAML
inside() { chroot "$at" /usr/bin/env -i HOME=/root PATH=/venv/bin:/usr/bin:/bin LANG=C.UTF-8 \
  PIP_CERT=/etc/ssl/certs/ca-certificates.crt ${PIP_INDEX_URL:+"PIP_INDEX_URL=$PIP_INDEX_URL"} \
  FARM_HOME=/farm FARM_CANARY=false FARM_IDLE_WAIT_S=0 FARM_SUSPECT_RETRIES=0 "$@"; }
[ "$(inside uname -m)" = aarch64 ]
inside python3 -m venv /venv
started=$SECONDS
inside pip install -q --disable-pip-version-check --only-binary :all: -c /wheel/constraints.txt "/wheel/$(basename "$dir"/wheel/*.whl)"
say "installed from aarch64 wheels alone in $((SECONDS - started)) s: $(inside farm --version), $(inside python3 --version)"
# The emulator refuses this one call, and the farm refuses to measure without it. What it is for (processes that leave their
# parents behind) is shown by tests/workers; everything else of the supervisor is at work here.
supervisor=$(ls "$at"/venv/lib/python3*/site-packages/workers/daemon/supervise.py)
grep -q '^    _prctl(PR_SET_CHILD_SUBREAPER, 1)$' "$supervisor"
sed -i '/^    _prctl(PR_SET_CHILD_SUBREAPER, 1)$/d' "$supervisor"
started=$SECONDS
inside farm run /sweep.yaml --report /report
inside farm results emulated --format json >"$dir/results.json"
say "a sweep ran through broker, scheduler, worker and runners in $((SECONDS - started)) s"
INSIDE

"$python" - "$dir/results.json" <<'PY'
import json, sys
rows = json.load(open(sys.argv[1]))
assert [row["outcome"] for row in rows] == ["ok", "ok"], rows
print("arm64: two records, both ok, of", rows[0]["device_id"])
PY
cat <<'END'
arm64: proven: the wheels resolve for JetPack 5 and 6; the farm installs on aarch64 and does a job there, start to report,
arm64:         but for the supervisor's PR_SET_CHILD_SUBREAPER, which the emulator does not have
arm64: not proven: JetPack's own Python 3.8 and 3.10 on aarch64 (no such builds at hand; x86-64 ones run in tests/island),
arm64:             TensorRT, CUDA, a board's sensors and power modes, and any speed: an emulator measures nothing
END
