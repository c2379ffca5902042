#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Many files or directories by one call of the host: of one owner and mode, or to be no more.

`copy` and `file` take one path each and go to the host once or twice for it; that was most of a play's time.
"""

import os
import shutil
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: farm_files
short_description: Write files or make directories of one owner and mode, or remove both
description:
  - Replaces a file as a whole and at once, with its owner and mode. Check mode and diff mode are supported.
options:
  files:
    description: Each file's path and text.
    type: list
    elements: dict
    suboptions:
      path:
        description: Where it is.
        type: path
        required: true
      content:
        description: All of its text.
        type: str
        required: true
  directories:
    description: Directories, each after its parent.
    type: list
    elements: path
  absent:
    description: Files and directories to remove, with all that is in them. This is done first.
    type: list
    elements: path
author: Inferfarm contributors
extends_documentation_fragment: files
"""

EXAMPLES = """
- name: Make two directories
  farm_files:
    directories: [/opt/inferfarm, /opt/inferfarm/releases]
    owner: root
    group: root
    mode: "0755"
"""

RETURN = """
paths:
  description: What was changed.
  type: list
  elements: str
  returned: always
"""


FILE = {"path": {"type": "path", "required": True}, "content": {"type": "str", "required": True}}


def make_directory(module, path):
    """Whether it was made, or in check mode would be."""
    if Path(path).is_dir():
        return attributed(module, path)
    if not module.check_mode:
        Path(path).mkdir()
        attributed(module, path)
    return True


def write(module, path, text):
    """Whether the file was written or its attributes were changed, or in check mode would be."""
    before = read(path)
    if before == text:
        return attributed(module, path)
    if not module.check_mode:
        # Beside it, so that it is renamed over it, when it has its owner and mode: nobody else reads it meanwhile.
        descriptor, temporary = tempfile.mkstemp(dir=Path(path).parent, prefix=".farm_files-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            attributed(module, temporary)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise
    return True


def read(path):
    """The file's text, or None where there is none."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace", newline="") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def remove(module, path):
    """Whether there was something, which in check mode is still there."""
    there = Path(path).is_symlink() or Path(path).exists()
    if there and not module.check_mode:
        if Path(path).is_dir() and not Path(path).is_symlink():
            shutil.rmtree(path)
        else:
            Path(path).unlink()
    return there


def attributed(module, path):
    """Whether owner or mode were not as they should be."""
    return module.set_fs_attributes_if_different(module.load_file_common_arguments(module.params, path), False)


def main():
    """Read the arguments, do it, and say what was done."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "options": FILE},
            "directories": {"type": "list", "elements": "path"},
            "absent": {"type": "list", "elements": "path"},
        },
        required_one_of=[("files", "directories", "absent")],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    files = [(each["path"], each["content"]) for each in module.params["files"] or []]
    try:
        changed = [path for path in module.params["absent"] or [] if remove(module, path)]
        changed += [path for path in module.params["directories"] or [] if make_directory(module, path)]
        diff = [
            {"before_header": path, "after_header": path, "before": read(path) or "", "after": text}
            for path, text in files
            if read(path) != text
        ]
        changed += [path for path, text in files if write(module, path, text)]
    except OSError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changed), paths=changed, diff=diff)


if __name__ == "__main__":
    main()
