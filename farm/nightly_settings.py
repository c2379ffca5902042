# SPDX-License-Identifier: Apache-2.0
"""The `[nightly]` table of the settings: when, what, how long, and who is told. docs/nightly.md explains each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from farm.times import Times, parse_times

#: As Python's `date.weekday` counts: Monday is 0.
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EVERY = "every"
_LABEL = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ADDRESS = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NightlySweep(_Table):
    """A sweep's file, or a directory whose sweeps are all meant, and on which days it is for."""

    path: Path
    label: str = Field(default="", pattern=f"^({_LABEL})?$")
    days: str = EVERY
    priority: int | None = Field(default=None, ge=0, le=9)

    @field_validator("days")
    @classmethod
    def _days_exist(cls, value: str) -> str:
        words = [word.strip().lower() for word in value.split(",")]
        wrong = [word for word in words if word not in (*WEEKDAYS, EVERY)]
        if wrong or not words:
            raise ValueError(f"no such day: {', '.join(wrong)}; use {', '.join(WEEKDAYS)} or {EVERY}")
        return ",".join(words)

    def is_for(self, weekday: int) -> bool:
        """Whether it runs on this day of the week, 0 for Monday."""
        words = self.days.split(",")
        return EVERY in words or WEEKDAYS[weekday] in words


class SmtpSettings(_Table):
    """A mail server and who writes to whom. The password comes from a file or from the environment."""

    host: str
    port: int = Field(default=587, ge=1, le=65535)
    tls: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: Path | None = None
    user: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    sender: str
    to: list[str] = Field(min_length=1)
    figures: bool = False

    @field_validator("sender", "to")
    @classmethod
    def _is_address(cls, value: str | list[str]) -> str | list[str]:
        for address in [value] if isinstance(value, str) else value:
            if not _ADDRESS.fullmatch(address):
                raise ValueError(f"{address!r} is no e-mail address")
        return value

    @model_validator(mode="after")
    def _password_is_safe(self) -> SmtpSettings:
        if self.tls == "none" and self.user is not None:
            raise ValueError("a user and a password are not sent without TLS: set tls to starttls or tls")
        return self


class NotifySettings(_Table):
    """Who hears of a night. Nothing set: nobody."""

    webhooks: list[SecretStr] = Field(default_factory=list)
    #: A file with one webhook URL a line: such URLs are often secrets.
    webhooks_file: Path | None = None
    smtp: SmtpSettings | None = None
    file: Path | None = None

    @field_validator("webhooks")
    @classmethod
    def _are_urls(cls, value: list[SecretStr]) -> list[SecretStr]:
        for url in value:
            check_url(url.get_secret_value())
        return value


class NightlySettings(_Table):
    """All of `[nightly]`."""

    at: str = "02:00"
    timezone: str = "UTC"
    sweeps: list[NightlySweep] = Field(default_factory=list)
    deadline_h: float = Field(default=8.0, gt=0, le=23)
    catch_up_h: float = Field(default=6.0, ge=0, le=23)
    canary_limit_min: float = Field(default=30.0, ge=0)
    confirm_device_s: float = Field(default=3600.0, ge=0)
    report_dir: Path | None = None
    base_url: str | None = None
    keep_nights: int = Field(default=90, ge=1)
    notify: NotifySettings = Field(default_factory=NotifySettings)

    @model_validator(mode="after")
    def _has_times(self) -> NightlySettings:
        parse_times(self.at, self.timezone)
        return self

    @property
    def times(self) -> Times:
        """When nights begin."""
        return parse_times(self.at, self.timezone)


def check_url(url: str) -> str:
    """A webhook's URL, if it is one that can be posted to.

    Raises:
        ValueError: it is not; the message does not hold it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a webhook is an http:// or https:// URL")
    return url
