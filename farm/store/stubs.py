# SPDX-License-Identifier: Apache-2.0
"""What a record's name by run shows once the record is in its day's file: a few bytes that name the day.

The name itself stays, so that of two writers of a run one wins, and whether a run has a record is one `stat`, whatever
form the record has. All stubs of a day are one file with many names: a million cost names and no blocks.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from farm.store import files

#: The kernel allows 65,000 names of one file.
MOST_NAMES = 60_000
#: Longer than any stub, shorter than any record.
_LONGEST = 64
_STUB = re.compile(rb'\{"compacted": "(\d{4}/\d{2}/\d{2})"\}\n')


def day_of(data: bytes) -> str | None:
    """The day that a stub's bytes name; None for a record's."""
    found = _STUB.fullmatch(data) if len(data) <= _LONGEST else None
    return found[1].decode() if found else None


class Stubs:
    """Stubs of one day, made below the directory `temp`. Their content is flushed, their names are not."""

    def __init__(self, temp: Path, day: str) -> None:
        self._temp = temp
        self._data = f'{{"compacted": "{day}"}}\n'.encode()
        self._file: Path | None = None
        self._names = 0

    def put(self, name: Path, *, replace: bool) -> bool:
        """Give a stub this name: in place of what has it, or, without `replace`, only if nothing has it."""
        source = self._source()
        if not replace:
            try:
                os.link(source, name)
            except FileExistsError:
                return False
            return True
        fresh = self._temp / f"{secrets.token_hex(12)}{files.TEMP_SUFFIX}"
        os.link(source, fresh)
        fresh.replace(name)
        # A rename onto another name of the same file does nothing, and leaves both.
        fresh.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Remove the name that stubs are linked from."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            self._file = None

    def _source(self) -> Path:
        if self._file is None or self._names >= MOST_NAMES:
            self.close()
            path = self._temp / f"{secrets.token_hex(12)}{files.TEMP_SUFFIX}"
            with open(path, "xb") as stream:
                stream.write(self._data)
                files.seal(stream)
            self._file, self._names = path, 1
        self._names += 1
        return self._file
