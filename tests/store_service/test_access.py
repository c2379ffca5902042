# SPDX-License-Identifier: Apache-2.0
"""Tokens and invitations: who has one, until when, once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from farm.errors import UsageError
from farm.store_service.access import Access, Invitation, JoinToken

INVITATION = Invitation("lab1", ("lab1-cpu",), None, "https://c:8470", "rediss://c:6380/0", "worker", "/etc/password")


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(tmp_path / "access")


def test_an_invitation_is_worth_what_it_says_once(access: Access) -> None:
    token = access.invite(INVITATION, "f" * 64)
    assert access.redeem(token.invitation, token.secret) == INVITATION
    assert access.redeem(token.invitation, token.secret) is None


def test_a_wrong_secret_gets_nothing_and_spends_nothing(access: Access) -> None:
    token = access.invite(INVITATION, "f" * 64)
    for secret in ("", token.secret[:-1], token.secret + "x", "\ud800", "x" * 43):
        assert access.redeem(token.invitation, secret) is None
    assert access.redeem("../tokens/lab1", token.secret) is None
    assert access.redeem(token.invitation, token.secret) == INVITATION


def test_an_invitation_that_is_over_is_refused_and_removed(access: Access, tmp_path: Path) -> None:
    token = access.invite(INVITATION, "f" * 64, hours=0)
    assert access.redeem(token.invitation, token.secret) is None
    access.tidy()
    assert list((tmp_path / "access/invitations").iterdir()) == []


def test_of_many_at_once_one_joins(access: Access) -> None:
    token = access.invite(INVITATION, "f" * 64)
    barrier, got = threading.Barrier(8), []

    def redeem() -> None:
        barrier.wait()
        got.append(access.redeem(token.invitation, token.secret))

    threads = [threading.Thread(target=redeem) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found for found in got if found is not None] == [INVITATION]


def test_neither_word_is_on_the_disk(access: Access, tmp_path: Path) -> None:
    words = [access.invite(INVITATION, "f" * 64).secret, access.grant("lab1").partition(":")[2]]
    text = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert text and not [word for word in words if word in text]


def test_a_new_token_takes_the_place_of_the_old_one(access: Access) -> None:
    old, new = access.grant("lab1"), access.grant("lab1", ["lab1-cpu"])
    assert access.check(old) is None
    grant = access.check(new)
    assert grant is not None and (grant.name, grant.devices) == ("lab1", ("lab1-cpu",))
    assert access.names() == ["lab1"]
    access.revoke("lab1")
    assert access.check(new) is None
    with pytest.raises(UsageError, match="no worker 'lab1'"):
        access.revoke("lab1")


@pytest.mark.parametrize("token", ["", ":", "lab1", "lab1:", "../lab1:x", "lab1:" + "x" * 43, "\ud800:x", "a" * 10_000])
def test_no_other_word_is_a_token(access: Access, token: str) -> None:
    access.grant("lab1")
    assert access.check(token) is None


@pytest.mark.parametrize("secret", ["lab2:" + "x" * 43, "lab1:short", "lab1:" + "é" * 40])
def test_a_token_that_is_given_must_be_a_good_one_of_its_worker(access: Access, secret: str) -> None:
    with pytest.raises(UsageError, match="32 or more characters"):
        access.grant("lab1", secret=secret)
    assert access.check(access.grant("lab1", secret="lab1:" + "s" * 32)) is not None


@pytest.mark.parametrize("name", ["", "../x", "a:b", "a" * 129])
def test_names_are_held_to_the_alphabet(access: Access, name: str) -> None:
    with pytest.raises(UsageError, match="not allowed"):
        access.grant(name)


def test_a_cut_token_is_told_apart_without_being_shown(access: Access) -> None:
    token = str(access.invite(INVITATION, "f" * 64))
    assert str(JoinToken.parse(f" {token}\n")) == token
    for text in (token[:-1], token[1:], "", "join1...", token + ".x"):
        with pytest.raises(UsageError) as error:
            JoinToken.parse(text)
        assert token[10:40] not in str(error.value)
