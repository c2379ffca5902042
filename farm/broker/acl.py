# SPDX-License-Identifier: Apache-2.0
"""Who may do what on a Redis of one's own: one ACL user for each role, and the file that a server loads them from.

A rule is what the role's code sends and no more; tests/security/test_acl.py runs a farm under it and reads the server's
list of refusals. Selectors (Redis 7, Valkey) tie each command to the keys it is for. Redis checks the commands inside
a script as the caller's own, so a role can do with any script what its rule says, and nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farm.contract.names import NIGHTLY_QUEUE, check_name
from farm.errors import UsageError

#: What every connection does.
_CONNECT = "+ping +hello +auth +client|setname +select"
#: What all that look at jobs, sweeps and devices do; and no key of another program.
_LOOK = "+get +exists +hget +hmget +hgetall +smembers +zcard +zrange +time %R~farm:*"
_SCRIPTS = "+evalsha +script|load +script|exists"
_TRANSACTION = "+multi +exec +discard +watch +unwatch"
#: Celery's events, which workers send and Flower hears; and remote control, which Flower asks and workers answer.
_HEAR = "+subscribe +psubscribe +unsubscribe +punsubscribe"
_EVENTS, _CONTROL = "&/0.celeryev/*", "&/0.celery.pidbox"

#: Putting a job into its line, taking it out, and waking the scheduler: parts of most scripts.
_LINES = "(+zadd +zrem +exists ~farm:ready:*) (+sadd +srem ~farm:lines) (+lpush +ltrim ~farm:wake)"
_STATES = (
    "(+hset +hdel +hincrby ~farm:job:*) (+hincrby ~farm:counts:*) (+zadd +zrem ~farm:leases) (+sadd +srem ~farm:owed)"
)
#: Celery's own keys of whoever takes messages from a queue, or listens to events.
_BINDINGS = "(+sadd +srem +smembers +exists +zadd +zrem +zrangebyscore +del +evalsha ~_kombu.*)"
_UNACKED = (
    "(+zadd +zrem +zrange ~unacked_index{of}) (+hset +hget +hdel +watch ~unacked{of}) "
    "(+set +get +del +evalsha +script|load ~unacked_mutex{of})"
)


@dataclass(frozen=True)
class Role:
    """One kind of user: `rules` in the words of `ACL SETUSER`; `{device}` in them is a device's id or `*`."""

    name: str
    can: str
    rules: str
    usual: bool = True


ROLES: tuple[Role, ...] = (
    Role(
        "scheduler",
        "hands out work: every key of the farm, and sending to the devices' queues",
        f"{_CONNECT} {_SCRIPTS} {_TRANSACTION} {_LOOK} +info "
        f"{_LINES} {_STATES} (+set ~farm:spec:*) (+set +get +del +pexpire ~farm:scheduler) "
        "(+set +del ~farm:rebuilt) (+del ~farm:job:*) "
        "(+hset +hincrbyfloat ~farm:sweep:*) (+zadd ~farm:sweeps ~farm:sweep-jobs:*) (+zrangebyscore ~farm:leases) "
        "(+sadd +srem ~farm:window:*) (+srem ~farm:settling:*) (+hset +hdel +hexists ~farm:device:*) "
        "(+blpop ~farm:wake) (+lpush +llen ~dev.*) "
        "(+srandmember ~farm:owed) (+lrange +llen +del ~farm:failed:*) "
        "(+evalsha +script|load ~farm:*) "
        f"{_BINDINGS}",
    ),
    Role(
        "worker",
        "announces its device, claims the jobs that it is sent, ends them or hands them back",
        f"{_CONNECT} {_SCRIPTS} {_TRANSACTION} {_LOOK} +info +unsubscribe +punsubscribe "
        f"{_LINES} {_STATES} (+srem ~farm:window:{{device}}) (+sadd +srem ~farm:settling:{{device}}) "
        "(+hincrbyfloat ~farm:sweep:*) "
        "(+lpush +lrem +ltrim +del ~farm:failed:{device}) "
        "(+hset +hdel ~farm:device:{device}) (+sadd ~farm:devices) (+brpop +llen +rpush +lpush ~dev.{device}) "
        f"(+publish {_EVENTS}) ({_HEAR} {_CONTROL}) "
        "(+llen +del +exists ~*.celery.pidbox) (+lpush ~*.reply.celery.pidbox) "
        f"{_BINDINGS} {_UNACKED.format(of='.{device}')}",
    ),
    Role(
        "submitter",
        "submits, cancels and retries sweeps; drains, maintains or resumes devices",
        f"{_CONNECT} {_SCRIPTS} {_LOOK} {_LINES} {_STATES} (+set ~farm:spec:*) (+hset ~farm:sweep:*) "
        "(+zadd ~farm:sweeps ~farm:sweep-jobs:*) (+srem ~farm:window:*) (+hset ~farm:device:*)",
    ),
    Role(
        "nightly",
        "submits and cancels as a submitter, asks for canaries, hears the ticks of its own queue",
        f"{_CONNECT} {_SCRIPTS} {_TRANSACTION} {_LOOK} {_LINES} {_STATES} +unsubscribe +punsubscribe "
        "(+set ~farm:spec:*) (+hset ~farm:sweep:*) (+zadd ~farm:sweeps ~farm:sweep-jobs:*) (+srem ~farm:window:*) "
        "(+hset ~farm:device:*) (+evalsha +set +get +del +pexpire ~farm:nightly ~farm:nightly-beat) "
        f"(+brpop +llen +rpush +lpush ~{NIGHTLY_QUEUE}) (+publish {_EVENTS}) "
        f"{_BINDINGS} {_UNACKED.format(of='.' + NIGHTLY_QUEUE)}",
    ),
    Role("reader", "looks at sweeps, jobs and devices: status, watch, devices, doctor", f"{_CONNECT} {_LOOK}"),
    Role(
        "flower",
        "hears the workers' events, counts what waits in the queues; reads no job",
        f"{_CONNECT} {_SCRIPTS} {_TRANSACTION} +time +info +unsubscribe +punsubscribe "
        f"({_HEAR} {_EVENTS}) (+publish {_CONTROL}) "
        "(+llen ~*) (+brpop +del +exists ~*.reply.celery.pidbox ~celeryev.*) "
        f"{_BINDINGS} {_UNACKED.format(of='')}",
    ),
    Role("admin", "the server itself: changes users, shuts it down", "~* &* +@all", usual=False),
)
BY_NAME: Mapping[str, Role] = {role.name: role for role in ROLES}

#: Shorter ones can be found by trying, once somebody has the file with their digests.
MIN_PASSWORD = 16
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class User:
    """One line of the file. `digest` is the SHA-256 of the password, which is all that a server keeps of it.

    `former` is that of the password before, which is still accepted.
    """

    name: str
    role: Role
    digest: str
    device_id: str | None = None
    former: str | None = None


def user_name(role: str, device_id: str | None = None) -> str:
    """`worker`, or `worker-lab1-cpu` for one that serves that device alone.

    Raises:
        UsageError: no such role, or an id that no device has.
    """
    if role not in BY_NAME:
        raise UsageError(f"no role {role!r}", hint=f"Roles: {', '.join(BY_NAME)}.")
    if device_id is None:
        return role
    try:
        return f"{role}-{check_name(device_id, 'device id')}"
    except ValueError as error:
        raise UsageError(str(error), hint="`farm devices` and `farm probe` list ids.") from error


def digest_of(text: str, where: str) -> str:
    """The digest of a password, or the one that is given as `sha256:HEX`.

    Raises:
        UsageError: the password is too short, or is more than one line. The message does not hold it.
    """
    word = text.strip()
    if word.startswith("sha256:"):
        digest = word.removeprefix("sha256:").lower()
        if not _DIGEST.fullmatch(digest):
            raise UsageError(f"{where}: not a SHA-256 after `sha256:`", hint="Write 64 digits of 0-9 a-f.")
        return digest
    if len(word) < MIN_PASSWORD or not word.isprintable():
        raise UsageError(
            f"{where}: a password is one line of at least {MIN_PASSWORD} printable characters",
            hint="Remove the file, and a good one is made.",
        )
    return hashlib.sha256(word.encode()).hexdigest()


def render(users: Sequence[User]) -> str:
    """The file for `aclfile`: these users and, since the file is all there is, nobody else."""
    # Nobody can be `default`, but Redis reads its append-only file as it: without rights the transactions are refused.
    lines = ["user default reset off ~* &* +@all"]
    for user in users:
        rules = user.role.rules.format(device=user.device_id or "*")
        digests = " ".join(f"#{digest}" for digest in (user.digest, user.former) if digest)
        lines.append(f"user {user.name} reset on {digests} {rules}")
    return "\n".join(lines) + "\n"
