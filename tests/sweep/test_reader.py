# SPDX-License-Identifier: Apache-2.0
"""A file that is no sweep at all gives one clear message; YAML's traps and bombs are harmless."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from farm.errors import UsageError
from farm.sweep import load_sweep
from farm.sweep.reader import MAX_BYTES, read_yaml

GOOD = "name: tiny\nmodels: [resnet18]\nworkflows: [fake]\n"


def message(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_sweep(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"---\n", "is empty"),
        (b"- a\n- b\n", "a sweep is a mapping"),
        (b"just text\n", "a sweep is a mapping"),
        (b"name: a\nmodels:\n\t- resnet18\n", "line 3: a tab"),
        (b"name: [a\n", "not valid YAML"),
        (b"name: a\nname2: b: c\n", "line 2: not valid YAML"),
        (b"name: \xff\xfe\n", "line 1: not UTF-8"),
        (GOOD.encode("utf-16"), "not UTF-8"),
        (b"name: a\x00b\n", "characters that YAML does not allow"),
        (b"name: a\n---\nname: b\n", "line 2: a second document"),
        (b"name: !!python/object/apply:os.system [true]\n", "tags are not allowed"),
        (b"name: !!str a\n", "tags are not allowed"),
        (b"name: *other\n", "refers to nothing before it"),
        (b"a: &a [*a]\n", "refers to nothing before it, or to itself"),
        (b"base: &b {x: 1}\nname: {<<: *b}\n", "merge keys"),
        (b"? [a]\n: b\n", "a key that is not plain text"),
        (b"a: " + b"[" * 40 + b"]" * 40, "nested more than 20"),
        (b"a: " + b"[" * 200_000, "nested more than 20"),
        (b"#" * (MAX_BYTES + 1), "larger than"),
        (b"a: [" + b"1," * 30_000 + b"1]", "more than 20000 values"),
    ],
)
def test_a_file_that_is_no_sweep_gets_one_clear_message(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    assert words in message(path)


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 15)]
    path.write_text("\n".join(lines))
    assert "an alias counts as all that it stands for" in message(path), "10^14 words would take for ever"


def test_a_tower_of_aliases_is_refused_although_each_is_small(tmp_path: Path) -> None:
    path = tmp_path / "tower.yaml"
    path.write_text("\n".join(["a0: &a0 x"] + [f"a{i}: &a{i} [[[*a{i - 1}]]]" for i in range(1, 900)]))
    assert "nested more than 20 deep" in message(path)


def test_what_is_not_a_readable_file_gets_one_clear_message(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "missing.yaml")
    assert "is a directory" in message(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "no such file" in message(tmp_path / "pipe")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    message(loop)
    if os.geteuid() != 0:
        closed = tmp_path / "closed.yaml"
        closed.write_text(GOOD)
        closed.chmod(0)
        assert "cannot be read" in message(closed)


def test_scalars_mean_what_they_look_like() -> None:
    """YAML 1.1 would read `no` as false, `1:30` as 90, `1e-3` and `2026-01-01` as text and a date."""
    text = "[no, 1:30, 1e-3, 2026-01-01, 010, 0x10, -7, 1.5, .5, true, 'true', ~, +.inf, 12_000]"
    expected = ["no", "1:30", 0.001, "2026-01-01", 10, "0x10", -7, 1.5, 0.5, True, "true", None, float("inf"), "12_000"]
    found = read_yaml(text, "t").value
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_sweep(path).name == "tiny"


def test_plain_aliases_work(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("name: tiny\nmodels: &m [resnet18, resnet50]\nworkflows: [fake]\nexclude: [{model: &n resnet50}]\n")
    assert [model.name for model in load_sweep(path).models] == ["resnet18", "resnet50"]
