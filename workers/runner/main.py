# SPDX-License-Identifier: Apache-2.0
"""The gate: an interpreter that is too old is refused before anything that it could not even parse is imported."""

import sys

#: Exit code of an interpreter older than Python 3.8; the runner uses it for nothing else.
EXIT_OLD_PYTHON = 97


def main(argv=None):  # type: ignore[no-untyped-def]
    """Run with `argv` (without the program's name; by default the process's own) and return the exit code."""
    if sys.version_info < (3, 8):
        sys.stderr.write(
            "the runner needs Python 3.8 or later; {} is {}\n".format(sys.executable, sys.version.split()[0])
        )
        return EXIT_OLD_PYTHON
    from workers.runner.entry import run

    return run(list(sys.argv[1:] if argv is None else argv))
