# SPDX-License-Identifier: Apache-2.0
"""`farm broker acl`: what it prints, and what it keeps to itself."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from farm.broker.acl import ROLES
from farm.cli.broker import broker
from farm.errors import UnavailableError, UsageError

USUAL = ["scheduler", "worker", "submitter", "nightly", "reader", "flower"]


def acl(directory: Path, *words: str) -> Result:
    return CliRunner().invoke(broker, ["acl", str(directory), *words], standalone_mode=False)


def users(printed: str) -> dict[str, list[str]]:
    return {line.split()[1]: line.split()[2:] for line in printed.splitlines()}


def test_it_makes_a_password_for_each_role_and_prints_none(tmp_path: Path) -> None:
    done = acl(tmp_path / "p")
    assert list(users(done.stdout)) == ["default", *USUAL]
    # Off: nobody can be it. Its rights are for Redis itself, which reads its append-only file as this user.
    assert users(done.stdout)["default"] == ["reset", "off", "~*", "&*", "+@all"]
    for role in USUAL:
        file = tmp_path / "p" / f"{role}.password"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        password = file.read_text().strip()
        assert len(password) > 30
        assert password not in done.output
        assert "#" + hashlib.sha256(password.encode()).hexdigest() in users(done.stdout)[role]


def test_the_same_passwords_give_the_same_file(tmp_path: Path) -> None:
    assert acl(tmp_path).stdout == acl(tmp_path).stdout


def test_a_password_or_a_digest_that_is_there_is_used(tmp_path: Path) -> None:
    (tmp_path / "reader.password").write_text("a-password-of-mine-1\n")
    (tmp_path / "worker.password").write_text("sha256:" + "AB" * 32)
    made = users(acl(tmp_path, "--role", "reader", "--role", "worker").stdout)
    assert "#" + hashlib.sha256(b"a-password-of-mine-1").hexdigest() in made["reader"]
    assert "#" + "ab" * 32 in made["worker"]
    assert set(made) == {"default", "worker", "reader"}


@pytest.mark.parametrize(
    "text", ["short", "two lines of a\npassword, both long", "sha256:12", "bell\x07bell-bell-bell-bell"]
)
def test_a_bad_password_is_refused_unshown(tmp_path: Path, text: str) -> None:
    (tmp_path / "reader.password").write_text(text)
    error = acl(tmp_path, "--role", "reader").exception
    assert isinstance(error, UsageError)
    assert "reader.password" in error.message
    assert text not in error.message


def test_a_worker_of_one_device_is_held_to_it(tmp_path: Path) -> None:
    made = users(acl(tmp_path, "--role", "worker", "--device", "lab1-cpu", "--device", "lab2-cpu").stdout)
    assert set(made) == {"default", "worker-lab1-cpu", "worker-lab2-cpu"}
    rules = " ".join(made["worker-lab1-cpu"])
    for key in ("~dev.lab1-cpu", "~farm:device:lab1-cpu", "~farm:window:lab1-cpu", "~unacked.lab1-cpu"):
        assert key in rules
    assert "lab2" not in rules
    assert "{" not in rules


@pytest.mark.parametrize("device", ["../x", "a b", "*", "a\nuser evil on nopass +@all", "~x"])
def test_a_device_id_cannot_bring_rules_of_its_own(tmp_path: Path, device: str) -> None:
    assert isinstance(acl(tmp_path, "--role", "worker", "--device", device).exception, UsageError)


def test_a_directory_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert isinstance(acl(tmp_path / "file" / "p").exception, UnavailableError)


def test_no_usual_role_has_a_whole_category_or_every_key() -> None:
    for role in ROLES:
        words = role.rules.replace("(", " ").replace(")", " ").split()
        broad = {word for word in words if word.startswith("+@") or word in ("~*", "&*", "allkeys", "allcommands")}
        # Flower counts any queue, which reads no message.
        assert broad <= ({"~*"} if role.name == "flower" else set()) or not role.usual


def test_the_docs_say_what_each_role_can_do() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/security.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == {role.name for role in ROLES}
    for role in ROLES:
        assert role.can in rows[role.name]


def test_a_renewed_password_and_the_one_before_are_both_good_until_it_is_removed(tmp_path: Path) -> None:
    before = users(acl(tmp_path).stdout)["worker"]
    old = (tmp_path / "worker.password").read_text().strip()
    made = users(acl(tmp_path, "--renew", "worker").stdout)
    new = (tmp_path / "worker.password").read_text().strip()
    assert new != old
    digests = ["#" + hashlib.sha256(word.encode()).hexdigest() for word in (new, old)]
    assert [word for word in made["worker"] if word.startswith("#")] == digests
    assert sum(word.startswith("#") for word in made["reader"]) == 1
    assert stat.S_IMODE((tmp_path / "worker.password.old").stat().st_mode) == 0o600
    assert users(acl(tmp_path).stdout) == made, "printed again, both are good still"
    (tmp_path / "worker.password.old").unlink()
    after = users(acl(tmp_path).stdout)["worker"]
    assert digests[0] in after and digests[1] not in after
    assert [word for word in after if word[0] != "#"] == [word for word in before if word[0] != "#"]


@pytest.mark.parametrize(
    ("renew", "told"), [("nobody", "no user"), ("worker-lab1-cpu", "no user"), ("reader", "is still good")]
)
def test_what_cannot_be_renewed_changes_nothing(tmp_path: Path, renew: str, told: str) -> None:
    acl(tmp_path)
    acl(tmp_path, "--renew", "reader")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    error = acl(tmp_path, "--renew", "worker", "--renew", renew).exception
    assert isinstance(error, UsageError) and told in error.message
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
