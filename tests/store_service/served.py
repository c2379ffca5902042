# SPDX-License-Identifier: Apache-2.0
"""`farm store serve` as a process with TLS, and settings of a worker that has a token of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from farm.secrets import private_file
from farm.settings import Settings
from farm.store import Store
from farm.store.remote import RemoteStore
from farm.store_service.access import Access
from tests.e2e.conftest import wait_for
from tests.security.tls_server import make_authority, make_certificate

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Served:
    """A controller whose store can be served and not, again and again at one port."""

    directory: Path
    settings: Settings
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def store(self) -> Store:
        return Store(self.settings.store_dir)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.directory / "served.log").read_text()

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FARM_")}
        own = {name: str(self.directory / f"{kind}") for name, kind in FILES.items()}
        return kept | own | {"FARM_HOME": str(self.settings.home), "PYTHONPATH": str(ROOT)}

    def start(self) -> None:
        said = len(self.log) if self.port else 0
        with (self.directory / "served.log").open("ab") as log:
            command = [sys.executable, "-m", "farm.cli.main", "store", "serve", "--port", str(self.port)]
            self.process = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log)
        told = re.compile(r"is served at https://127\.0\.0\.1:(\d+)")
        found = wait_for(lambda: told.search(self.log[said:]), "the store's service")
        self.port = int(found[1])  # type: ignore[index]

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            assert self.process.wait(timeout=120) == 0
            self.process = None

    def worker(self, name: str = "lab", *devices: str) -> Settings:
        """Settings of a worker with a token of its own, and no store."""
        token = self.directory / f"{name}.token"
        private_file(token, Access(self.settings.access_dir).grant(name, devices))
        return Settings(
            home=self.directory / f"home-{name}",
            lock_dir=self.directory / f"locks-{name}",
            store=self.directory / "nowhere",
            store_url=self.url,
            store_token_file=token,
            store_ca_file=self.directory / "ca.crt",
            idle_wait_s=0,
            suspect_retries=0,
        )

    def remote(self, name: str = "lab", *devices: str) -> RemoteStore:
        return RemoteStore(self.worker(name, *devices))


FILES = {"FARM_STORE_CA_FILE": "ca.crt", "FARM_STORE_CERT_FILE": "server.crt", "FARM_STORE_KEY_FILE": "server.key"}


@contextmanager
def serving(directory: Path) -> Iterator[Served]:
    """A controller in `directory`, at work."""
    make_authority(directory)
    make_certificate(directory, "server")
    settings = Settings(
        home=directory / "controller",
        lock_dir=directory / "locks",
        store_ca_file=directory / "ca.crt",
        idle_wait_s=0,
        suspect_retries=0,
        canary=False,
    )
    served = Served(directory, settings)
    served.start()
    try:
        yield served
    finally:
        served.stop()


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
