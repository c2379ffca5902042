#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""List the names of a TensorRT version's Python binding, from its wheel alone: no TensorRT library, no GPU.

    pip download --no-deps --python-version 3.10 --only-binary=:all: tensorrt-cu12-bindings==10.16.1.11
    python tools/check_trt_api.py --python PYTHON3.10 WHEEL...

writes tests/workflows/trt_api/VERSION.json. The wheels: `tensorrt==8.5.3.1` and `tensorrt==8.6.0` (whole), then
`tensorrt-cu12-bindings`. The binding is imported by the Python it was built for, against empty libraries that have the
symbols it needs: importing calls none of them. tests/workflows/test_trt_compat.py holds the code against the lists.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "tests/workflows/trt_api"

_LIST = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("tensorrt", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
found = {name: getattr(module, name) for name in dir(module)}
json.dump({name: [n for n in dir(kind) if not n.startswith("_")] for name, kind in found.items()
    if isinstance(kind, type)}, sys.stdout)
"""


def wanted_classes() -> set[str]:
    """The classes that the farm uses."""
    sys.path.insert(0, str(ROOT))
    from workers.workflows.trt_names import OPTIONAL, REQUIRED

    return {*REQUIRED, *OPTIONAL}


def list_names(wheel: Path, python: str) -> dict[str, list[str]]:
    """Every class of the binding in a wheel, with its public names."""
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith("/tensorrt.so"))
            library = Path(archive.extract(member, work))
        stand_in(library, work)
        done = subprocess.run(
            [python, "-I", "-c", _LIST, str(library)],
            env=os.environ | {"LD_LIBRARY_PATH": str(work)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def stand_in(library: Path, work: Path) -> None:
    """Make a library with all undefined symbols for each NVIDIA library that `library` needs."""
    undefined = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in undefined.stdout.splitlines()]
    ours = [n for n in names if re.match(r"(create|getBuilder|getNv|getPlugin|initLib|_ZN.*nv(uff|caffe))", n)]
    source = work / "stand_in.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ours if "@" not in name))
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    for soname in re.findall(r"\[(libnv[a-z_]+\.so\.\d+)\]", needed):
        subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", work / soname, source], check=True)


def main() -> None:
    """Write one list per wheel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--python", required=True, help="an interpreter of the version that the wheels are for")
    options = parser.parse_args()
    wanted = wanted_classes()
    OUT.mkdir(parents=True, exist_ok=True)
    for wheel in options.wheels:
        found = list_names(wheel, options.python)
        kept = {name: sorted(found[name]) for name in sorted(wanted & found.keys())}
        path = OUT / f"{wheel.name.split('-')[1]}.json"
        lines = [f" {json.dumps(name)}: {json.dumps(names)}" for name, names in kept.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(path)


if __name__ == "__main__":
    main()
