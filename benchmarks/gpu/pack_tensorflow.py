#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pack a stack with TF-TRT (its own Python 3.10, TensorFlow 2.14, TensorRT 8.5.3) for a GPU host without a network.

    python benchmarks/gpu/pack_tensorflow.py OUT [--part-bytes N]

OUT gets part-000, part-001, ... (56 MB each at most), manifest.json (sizes, sha256, versions), the zstd program and
unpack.sh. On the GPU host, which needs bash, tar and sha256sum:

    bash OUT/unpack.sh STACK
    python benchmarks/gpu/run.py --stack tf=STACK/python/bin/python3.10,STACK/env.sh --home DIR --out DIR \\
        benchmarks/gpu/sweeps/tf-trt.yaml

TensorFlow 2.14 is the last release whose own extra `and-cuda` names a TensorRT, 8.5.3.1; both are built for CUDA 11.8
and cuDNN 8.7, which know compute capability 9.0. TensorFlow's kernels themselves are compiled up to 8.0 only: on a
newer GPU the driver compiles them when they are first used, and keeps them in STACK/kernels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    "tensorflow==2.14.1", "keras==2.14.0", "numpy==1.26.4", "ml-dtypes==0.2.0", "protobuf==4.25.9", "h5py==3.14.0",
    "absl-py==2.1.0", "astunparse==1.6.3", "flatbuffers==24.3.25", "gast==0.6.0", "google-pasta==0.2.0",
    "opt-einsum==3.4.0", "packaging==24.2", "six==1.17.0", "termcolor==2.5.0", "typing-extensions==4.12.2",
    "wrapt==1.14.2", "tensorflow-estimator==2.14.0", "tensorflow-io-gcs-filesystem==0.37.1", "setuptools==75.6.0",
    "wheel==0.45.1", "grpcio==1.68.1", "requests==2.32.3", "urllib3==2.2.3", "certifi==2024.12.14", "idna==3.10",
    "charset-normalizer==3.4.0",
    "tensorrt==8.5.3.1", "nvidia-cuda-runtime-cu11==11.8.89", "nvidia-cublas-cu11==11.11.3.6",
    "nvidia-cudnn-cu11==8.7.0.84", "nvidia-cuda-nvcc-cu11==11.8.89", "nvidia-cuda-cupti-cu11==11.8.87",
    # Without one of these TensorFlow registers no GPU, although classifiers never call them.
    "nvidia-cufft-cu11==10.9.0.58", "nvidia-curand-cu11==10.3.0.86", "nvidia-cusolver-cu11==11.4.1.48",
    "nvidia-cusparse-cu11==11.7.5.86",
)  # fmt: skip
UNUSED = (
    # Not ops_train: TensorFlow's batch normalisation is in it.
    "nvidia/cudnn/lib/*adv_train*", "nvidia/cudnn/lib/*cnn_train*",
    "nvidia/cusolver/lib/libcusolverMg*", "nvidia/cuda_cupti/lib/libnvperf*",
    "nvidia/*/include", "tensorflow/include", "**/__pycache__", "**/*.a", "bin",
)  # fmt: skip
STDLIB_UNUSED = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "__pycache__", "*.a")
PART_BYTES = 56_000_000

ENV_SH = """\
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export STACK_PYTHON=$here/python/bin/python3.10 PYTHONHOME=$here/python PYTHONPATH=$here/site
libraries=$(find "$here/site/nvidia" -name '*.so*' -path '*/lib/*' -printf '%h\\n' | sort -u | tr '\\n' ':')
export LD_LIBRARY_PATH=$here/python/lib:$here/site/tensorrt:$libraries
export CUDA_CACHE_PATH=$here/kernels CUDA_CACHE_MAXSIZE=4294967296 CUDA_MODULE_LOADING=LAZY TF_CPP_MIN_LOG_LEVEL=1
"""
UNPACK_SH = """\
#!/usr/bin/env bash
# Unpack the parts beside this file into a folder, after their digests were checked.
set -euo pipefail
parts=$(cd "$(dirname "$0")" && pwd)
target=${1:?usage: unpack.sh STACK}
mkdir -p "$target"
(cd "$parts" && sha256sum --quiet -c sha256sums)
zstd=$parts/zstd
[ -x "$zstd" ] || { zstd=$target/zstd; cp "$parts/zstd" "$zstd"; chmod +x "$zstd"; } # copying may lose that bit
cat "$parts"/part-* | "$zstd" -d --long=27 -q | tar xf - -C "$target"
"""


def run(*command: Any) -> None:
    """Run a program that must end well."""
    subprocess.run([str(part) for part in command], check=True)


def find_python() -> Path:
    """A Python 3.10 with its standard library beside it: pyenv's, else the system's."""
    for root in (Path.home() / ".pyenv/versions", Path("/usr/local"), Path("/usr")):
        for python in sorted(root.glob("**/bin/python3.10"), reverse=True):
            if python.parent.parent.joinpath("lib/python3.10/os.py").exists():
                return python
    sys.exit("no Python 3.10 here: TensorRT 8.5.3 has wheels for 3.6 to 3.10")


def install(python: Path, packages: Sequence[str], site: Path) -> None:
    """Put wheels, and nothing that they would ask for, into a folder."""
    with tempfile.TemporaryDirectory(prefix="pack-") as scratch:
        run(python, "-m", "venv", scratch)
        pip = (Path(scratch) / "bin/python", "-m", "pip", "install", "-q", "--no-deps", "--no-compile")
        run(*pip, "--retries", "5", "--target", site, *packages)


def prune(site: Path, patterns: Sequence[str]) -> None:
    """Remove what no measurement uses."""
    for path in [path for pattern in patterns for path in site.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def copy_interpreter(python: Path, target: Path) -> None:
    """The interpreter, its standard library and its shared library where it has one."""
    home = python.parent.parent
    ignored = shutil.ignore_patterns(*STDLIB_UNUSED)
    shutil.copytree(home / "lib/python3.10", target / "lib/python3.10", ignore=ignored)
    for library in home.glob("lib/libpython3*"):
        shutil.copy2(library, target / "lib")
    (target / "bin").mkdir()
    shutil.copy2(python.resolve(), target / "bin/python3.10")


def pack(stack: Path, out: Path, part_bytes: int) -> list[Path]:
    """Compress a folder into parts."""
    zstd = shutil.which("zstd") or sys.exit("zstd is not installed")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("part-*"):
        old.unlink()
    command = (
        'tar cf - --sort=name --mtime=@0 --owner=0 --group=0 -C "$1" python site env.sh'
        ' | "$2" -T0 -9 --long=27 -q | split -b "$3" -d -a 3 - "$4/part-"'
    )
    run("bash", "-o", "pipefail", "-c", command, "bash", stack, zstd, part_bytes, out)
    shutil.copy2(zstd, out / "zstd")
    return sorted(out.glob("part-*"))


def describe(out: Path, parts: Sequence[Path], packages: Sequence[str], python: str) -> dict[str, Any]:
    """Write manifest.json, sha256sums and unpack.sh beside the parts."""
    digests = {}
    for part in parts:
        with part.open("rb") as stream:
            digests[part.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    manifest = {
        "python": python,
        "packages": sorted(packages),
        "size_bytes": sum(part.stat().st_size for part in parts),
        "parts": [{"name": p.name, "size_bytes": p.stat().st_size, "sha256": digests[p.name]} for p in parts],
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    (out / "sha256sums").write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    (out / "unpack.sh").write_text(UNPACK_SH)
    (out / "unpack.sh").chmod(0o755)
    return manifest


def main() -> None:
    """Install, prune, pack, describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part-bytes", type=int, default=PART_BYTES)
    options = parser.parse_args()
    python = find_python()
    with tempfile.TemporaryDirectory(prefix="stack-") as temporary:
        stack = Path(temporary)
        install(python, PACKAGES, stack / "site")
        prune(stack / "site", UNUSED)
        copy_interpreter(python, stack / "python")
        (stack / "env.sh").write_text(ENV_SH)
        parts = pack(stack, options.out, options.part_bytes)
    manifest = describe(options.out, parts, PACKAGES, python.parent.parent.name)
    print(f"{len(parts)} parts, {manifest['size_bytes']:,} bytes, in {options.out}")


if __name__ == "__main__":
    main()
