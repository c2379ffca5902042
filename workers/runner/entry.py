# SPDX-License-Identifier: Apache-2.0
"""The things the runner does, chosen by its arguments."""

import faulthandler
import os
import sys
from typing import List

EXIT_USAGE = 2
_USAGE = "usage: PYTHON -I BUNDLE_DIR CONTROL_DIR\n       PYTHON -I BUNDLE_DIR --probe OUT.json\n"


def run(argv: List[str]) -> int:
    """Measure, prepare or probe; return the exit code, 0 only when the result was written."""
    if len(argv) == 2 and argv[0] == "--probe":
        from workers.runner.probe import write_probe

        write_probe(argv[1])
        return 0
    if argv[:1] == ["--warm"] and len(argv) >= 4:
        from workers.runner.warm import serve

        return serve(argv[1:])
    if len(argv) != 1 or argv[0].startswith("-"):
        sys.stderr.write(_USAGE)
        return EXIT_USAGE
    faulthandler.enable()  # a crash in native code leaves its Python stack in the log
    from workers.runner.stages import run_request

    run_request(os.path.abspath(argv[0]))
    # The result is on disk. What is left is the tear-down of foreign libraries, whose threads can hang or crash it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
