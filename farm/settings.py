# SPDX-License-Identifier: Apache-2.0
"""The farm's settings: the only module that reads the farm's environment variables and its `farm.toml`.

Precedence: arguments, then `FARM_*` environment variables, then the TOML file (`FARM_CONFIG`, else `./farm.toml`, else
`~/.config/inferfarm/farm.toml`), then the defaults below.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from farm.contract.names import check_name
from farm.errors import UsageError
from farm.nightly_settings import NightlySettings
from farm.secrets import hide
from farm.thresholds import unknown_names

#: Which runs are forked from a parent that has their libraries imported: all but measured points of several processes,
#: all, or none.
WarmPolicy = Literal["auto", "always", "never"]


class StackSettings(BaseModel):
    """One stack of this host: an interpreter and what its processes need in their environment.

    `warm_runners` is the farm's setting of this name for one stack.
    """

    model_config = ConfigDict(extra="forbid")

    python: str
    env: dict[str, str] = Field(default_factory=dict)
    warm_runners: WarmPolicy | None = None


class Settings(BaseSettings):
    """All settings. Every field is documented in docs/settings.md; a test holds the two equal."""

    model_config = SettingsConfigDict(env_prefix="FARM_", env_nested_delimiter="__", extra="forbid")

    #: Where this host keeps the embedded broker, spool, work directories and cache.
    home: Path = Path("~/.local/state/inferfarm")
    #: The store's directory; by default HOME/store.
    store: Path | None = None
    #: The controller's store, `https://HOST:8470`, for a worker without its directory; unset: `store`.
    store_url: str | None = None
    #: A file that holds this worker's token for `store_url`.
    store_token_file: Path | None = None
    #: Who signed the store's certificate; unset: the system's authorities.
    store_ca_file: Path | None = None
    #: Where `farm store serve` listens. On an address that others reach it must have a certificate.
    store_address: str = "127.0.0.1"
    store_port: int = Field(default=8470, ge=0, le=65535)
    #: The certificate of `farm store serve` and its key.
    store_cert_file: Path | None = None
    store_key_file: Path | None = None
    #: The largest file that `farm store serve` takes.
    store_max_blob_bytes: int = Field(default=32 << 30, ge=1)
    #: A Redis URL. Unset: the embedded broker of `home`, if it runs.
    broker_url: str | None = None
    #: The ACL user to be for the broker (docs/security.md); unset: its default user.
    broker_user: str | None = None
    #: The broker's password, for where secrets come as environment variables. A file is better.
    broker_password: SecretStr | None = None
    #: A file that holds the broker's password, so that it is in no URL, argument or log.
    broker_password_file: Path | None = None
    #: With `rediss://`: the authority that signed the server's certificate; unset: the system's.
    broker_ca_file: Path | None = None
    #: With `rediss://`: this host's own certificate and its key, for a server that asks for one.
    broker_cert_file: Path | None = None
    broker_key_file: Path | None = None
    #: Kernel locks on devices live here; all farms of one host must share it.
    lock_dir: Path = Path("/run/lock/inferfarm")
    #: The stacks of this host, by name. Unset: one, `default`, this interpreter.
    stacks: dict[str, StackSettings] = Field(default_factory=dict)
    #: The device that a worker started here serves. Unset: this host's CPU.
    device: str | None = None
    #: A claimed job's lease, in seconds; renewed every sixth of it.
    lease_s: float = Field(default=300.0, gt=0)
    #: How often a lost job is tried again before it is quarantined.
    max_attempts: int = Field(default=3, ge=1)
    #: How long the running job of a worker that is told to end may go on before it is handed back; None: to its end.
    drain_limit_s: float | None = Field(default=None, ge=0)
    #: After so many jobs in a row that failed on it a device is quarantined; 0: never.
    device_failures_quarantine: int = Field(default=5, ge=0)
    #: How long a job waits for a device that another farm holds.
    device_wait_s: float = Field(default=600.0, ge=0)
    #: Telemetry samples a second; 0: none.
    telemetry_hz: float = Field(default=10.0, ge=0, le=100)
    #: How long a job waits, over all its points, for other work on its host or device to end.
    idle_wait_s: float = Field(default=30.0, ge=0)
    #: How long a job waits, over all its points, for a hot device to cool down.
    cool_down_s: float = Field(default=120.0, ge=0)
    #: How often a point with doubts that may pass is measured again.
    suspect_retries: int = Field(default=1, ge=0, le=3)
    #: Which runs are forked from a warm parent: `auto`, `always` or `never`; docs/measuring.md.
    warm_runners: WarmPolicy = "auto"
    #: A warm parent is made anew after so many runs, ends by itself after so many seconds without one, and is not kept
    #: where it takes more memory than this.
    warm_runs: int = Field(default=200, ge=1)
    warm_idle_s: float = Field(default=600.0, gt=0)
    warm_memory_mib: int = Field(default=2048, ge=1)
    #: Limits of `farm.thresholds` to change, by `all`, a kind, a class or an id of device.
    thresholds: dict[str, dict[str, float]] = Field(default_factory=dict)
    #: Jobs sent ahead to one device: the one that runs and those that wait behind it.
    window: int = Field(default=2, ge=1)
    #: Whether a farm that is kept running makes canaries by itself; asked for, they are made in any case.
    canary: bool = True
    #: How long a device's canary is good for, in hours; then the next one is made.
    canary_every_h: float = Field(default=24.0, gt=0)
    #: Whether a device whose canary has shifted is quarantined.
    canary_quarantine: bool = False
    #: Celery's remote control (`celery inspect`). Off is safer where others can reach the broker.
    remote_control: bool = True
    #: Flower's port and address. On an address that others reach it asks for a login.
    flower_port: int = Field(default=5555, ge=0, le=65535)
    flower_address: str = "127.0.0.1"
    #: Flower's login. Unset: a password is made in HOME/flower.password where one is needed.
    flower_user: str = Field(default="farm", pattern=r"[A-Za-z0-9._-]{1,64}")
    flower_password_file: Path | None = None
    #: Flower's certificate and key, to serve HTTPS.
    flower_cert_file: Path | None = None
    flower_key_file: Path | None = None
    #: The path that a reverse proxy serves Flower under, such as `/flower`.
    flower_url_prefix: str = Field(default="", pattern=r"^(/[A-Za-z0-9._-]{1,64}){0,4}$")
    #: Single sign-on for Flower: who signs in people, who of them is let in (addresses with `|`, or `.*@lab.example`),
    #: the client's id and secret there, and the address that people come back to.
    flower_oauth_provider: Literal["", "github", "gitlab", "google", "okta"] = ""
    flower_oauth_allow: str = ""
    flower_oauth_client_id: str = ""
    flower_oauth_secret_file: Path | None = None
    flower_oauth_redirect_url: str = ""
    #: Where `farm metrics serve` listens; on an address that others reach it asks for a login, the user is `farm`.
    metrics_port: int = Field(default=9464, ge=0, le=65535)
    metrics_address: str = "127.0.0.1"
    #: That login's password. Unset: one is made in HOME/metrics.password where it is needed.
    metrics_password_file: Path | None = None
    #: Days after which the nightly and `farm artifacts gc` put a day's records into one file; 0: never.
    compact_after_days: int = Field(default=30, ge=0)
    #: What runs every night, and who is told; docs/nightly.md.
    nightly: NightlySettings = Field(default_factory=NightlySettings)

    @field_validator("stacks")
    @classmethod
    def _stacks_have_names(cls, value: dict[str, StackSettings]) -> dict[str, StackSettings]:
        for name in value:
            check_name(name, "stack")
        return value

    @field_validator("thresholds")
    @classmethod
    def _thresholds_exist(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        unknown = unknown_names(value)
        if unknown:
            raise ValueError(f"no such threshold: {', '.join(unknown)}; docs/measuring.md lists them")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the TOML file under the environment; no dotenv, no secrets directory."""
        path = config_file()
        if path is None:
            return init_settings, env_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path)

    def model_post_init(self, context: Any) -> None:
        """Expand `~` and fill in what follows from `home`."""
        self.home = self.home.expanduser().absolute()
        self.store = (self.store or self.home / "store").expanduser().absolute()
        if not self.stacks:
            self.stacks = {"default": StackSettings(python=sys.executable)}

    @property
    def store_dir(self) -> Path:
        """The store's directory, never None."""
        return self.store or self.home / "store"

    @property
    def run_dir(self) -> Path:
        """Sockets, PID files and the embedded broker's address."""
        return self.home / "run"

    @property
    def work_dir(self) -> Path:
        """Control directories of running jobs."""
        return self.home / "work"

    @property
    def cache_dir(self) -> Path:
        """Prepared models, by what they depend on. May be deleted at any time while no job runs."""
        return self.home / "cache"

    @property
    def spool_dir(self) -> Path:
        """Records and blobs that wait for the store."""
        return self.home / "spool"

    @property
    def access_dir(self) -> Path:
        """The store's service: digests of workers' tokens and of invitations."""
        return self.home / "access"

    @property
    def nightly_report_dir(self) -> Path:
        """Where the reports of nights and their index are."""
        given = self.nightly.report_dir
        return config_dir() / given.expanduser() if given else self.store_dir / "reports" / "nightly"

    def environment(self) -> dict[str, str]:
        """The `FARM_*` variables that give another process of this host these settings. Holds no secret."""
        pairs: dict[str, Any] = {"HOME": self.home, "STORE": self.store_dir, "LOCK_DIR": self.lock_dir}
        pairs |= {"LEASE_S": self.lease_s, "DEVICE_WAIT_S": self.device_wait_s, "WINDOW": self.window}
        pairs |= {"MAX_ATTEMPTS": self.max_attempts, "TELEMETRY_HZ": self.telemetry_hz}
        pairs |= {"DEVICE_FAILURES_QUARANTINE": self.device_failures_quarantine}
        if self.drain_limit_s is not None:
            pairs["DRAIN_LIMIT_S"] = self.drain_limit_s
        pairs |= {"IDLE_WAIT_S": self.idle_wait_s, "COOL_DOWN_S": self.cool_down_s}
        pairs |= {"SUSPECT_RETRIES": self.suspect_retries, "THRESHOLDS": json.dumps(self.thresholds)}
        pairs |= {"WARM_RUNNERS": self.warm_runners, "WARM_RUNS": self.warm_runs, "WARM_IDLE_S": self.warm_idle_s}
        pairs |= {"WARM_MEMORY_MIB": self.warm_memory_mib}
        pairs |= {"CANARY": self.canary, "CANARY_EVERY_H": self.canary_every_h}
        pairs |= {"CANARY_QUARANTINE": self.canary_quarantine}
        remote = {"STORE_URL": self.store_url, "STORE_TOKEN_FILE": self.store_token_file}
        remote |= {"STORE_CA_FILE": self.store_ca_file}
        pairs |= {key: value for key, value in remote.items() if value is not None}
        return {f"FARM_{key}": str(value) for key, value in pairs.items()}


def config_file() -> Path | None:
    """The TOML file in force, or None."""
    named = os.environ.get("FARM_CONFIG")
    if named:
        return Path(named)
    for path in (Path("farm.toml"), Path("~/.config/inferfarm/farm.toml").expanduser()):
        if path.is_file():
            return path
    return None


def config_dir() -> Path:
    """Where relative paths of the `[nightly]` table begin: the TOML file's directory, without one the current one."""
    path = config_file()
    return path.absolute().parent if path else Path.cwd()


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; arguments that are None are left to the other sources.

    Raises:
        UsageError: with every fault, each with its place and the value.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    path = config_file()
    if path is not None and not path.is_file():
        raise UsageError(f"FARM_CONFIG names {path}, which is not a file", hint="Unset FARM_CONFIG or create the file.")
    try:
        return Settings(**given)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}", hint="See docs/settings.md for an example.") from error
    except ValidationError as error:
        problems = [_problem(e) for e in error.errors()]
        raise UsageError(
            "the settings are not valid", problems=problems, hint="See docs/settings.md for every setting."
        ) from error


def _problem(error: ErrorDetails) -> str:
    place = ".".join(map(str, error["loc"]))
    # A mistyped password is a password, and a URL may hold one or be one.
    got = "" if "password" in place or "webhook" in place else f", got {hide(repr(error['input']))}"
    return f"{place}: {error['msg']}{got}"
