# SPDX-License-Identifier: Apache-2.0
"""Flower's pages for a farm: read-only, and behind a login wherever another machine can reach them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from farm.broker.celery_app import make_app
from farm.broker.connection import broker_url, is_loopback
from farm.errors import UsageError
from farm.secrets import password_in, read_secret
from farm.settings import Settings

#: Flower's own handlers; each talks to its provider's servers, or to those that its environment variables name.
_PROVIDERS = {
    "github": "flower.views.auth.GithubLoginHandler",
    "gitlab": "flower.views.auth.GitLabLoginHandler",
    "google": "flower.views.auth.GoogleAuth2LoginHandler",
    "okta": "flower.views.auth.OktaLoginHandler",
}
#: Addresses with `|` between them, or everybody of one domain: what Flower compares without surprises.
_ALLOWED = re.compile(r"[\w.+-]+@[\w.-]+(\|[\w.+-]+@[\w.-]+)*|\.\*@[\w.-]+")
#: Shorter ones can be found by trying: Flower does not count how often somebody tries.
MIN_PASSWORD = 12


def serve(settings: Settings) -> None:
    """Serve until SIGTERM.

    Raises:
        UsageError: the login, the certificate or the address makes no sense.
        UnavailableError: there is no broker, or the password can be neither read nor made.
    """
    arguments = flower_arguments(settings)
    app = make_app(settings, broker_url(settings))
    _guard_metrics()
    # A list inside this process: no argument of a process that `ps` shows.
    app.start(["flower", *arguments])


def flower_url(settings: Settings) -> str:
    """Where people find the pages."""
    address = settings.flower_address
    host = f"[{address}]" if ":" in address else address or "0.0.0.0"  # noqa: S104 - Flower's own meaning of ""
    return f"{'https' if settings.flower_cert_file else 'http'}://{host}:{settings.flower_port}{settings.flower_url_prefix}"


def needs_login(settings: Settings) -> bool:
    """Whether somebody else could reach the pages, or a login was asked for."""
    if settings.flower_oauth_provider:
        return True
    return settings.flower_password_file is not None or not is_loopback(settings.flower_address)


def flower_arguments(settings: Settings) -> list[str]:
    """Flower's options. Its own configuration file, found in the current directory, is not read: it is a program."""
    arguments = [
        f"--address={settings.flower_address}",
        f"--port={settings.flower_port}",
        "--conf=/dev/null",
        "--read_only=True",
        "--max_tasks=20000",
        "--purge_offline_workers=86400",
    ]
    if (settings.flower_cert_file is None) != (settings.flower_key_file is None):
        raise UsageError("flower_cert_file and flower_key_file go together: one of them is not set")
    if settings.flower_cert_file and settings.flower_key_file:
        arguments += [f"--certfile={_file(settings.flower_cert_file)}", f"--keyfile={_file(settings.flower_key_file)}"]
    if settings.flower_url_prefix:
        arguments.append(f"--url_prefix={settings.flower_url_prefix.strip('/')}")
    if settings.flower_oauth_provider:
        # Instead of the password: Flower would ask for both.
        arguments += _oauth(settings)
    elif needs_login(settings):
        arguments.append(f"--basic_auth={settings.flower_user}:{_password(settings)}")
    return arguments


def _oauth(settings: Settings) -> list[str]:
    """Flower's options for single sign-on."""
    given = {
        "flower_oauth_allow": settings.flower_oauth_allow,
        "flower_oauth_client_id": settings.flower_oauth_client_id,
        "flower_oauth_secret_file": settings.flower_oauth_secret_file,
        "flower_oauth_redirect_url": settings.flower_oauth_redirect_url,
    }
    problems = [f"{name} is not set" for name, value in given.items() if not value]
    if settings.flower_oauth_allow and not _ALLOWED.fullmatch(settings.flower_oauth_allow):
        problems.append("flower_oauth_allow: neither addresses with `|` between them nor `.*@` and a domain")
    url = urlsplit(settings.flower_oauth_redirect_url)
    if url.netloc and (url.scheme != "https" or url.path != f"{settings.flower_url_prefix}/login"):
        problems.append(f"flower_oauth_redirect_url: not https, or its path is not {settings.flower_url_prefix}/login")
    if problems:
        hint = "docs/monitoring.md has an example."
        raise UsageError(f"single sign-on by {settings.flower_oauth_provider}", problems=problems, hint=hint)
    secret = read_secret(
        Path(settings.flower_oauth_secret_file or ""), "the provider's secret", "FARM_FLOWER_OAUTH_SECRET_FILE"
    )
    return [
        f"--auth_provider={_PROVIDERS[settings.flower_oauth_provider]}",
        f"--auth={settings.flower_oauth_allow}",
        f"--oauth2_key={settings.flower_oauth_client_id}",
        f"--oauth2_secret={secret}",
        f"--oauth2_redirect_uri={settings.flower_oauth_redirect_url}",
    ]


def _password(settings: Settings) -> str:
    path = (settings.flower_password_file or settings.home / "flower.password").expanduser()
    if settings.flower_password_file is not None and not path.exists():
        raise UsageError(f"flower_password_file: {path} is not a file", hint="Unset it, and a password is made.")
    password = password_in(path)
    if len(password) < MIN_PASSWORD or "," in password or not password.isprintable():
        raise UsageError(
            f"{path}: Flower's password is one line of at least {MIN_PASSWORD} printable characters without a comma",
            hint="Remove the file, and a good one is made.",
        )
    return password


def _file(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_file():
        raise UsageError(f"Flower's certificate or key {path} is not a file", hint="Correct FARM_FLOWER_CERT_FILE.")
    return path


def _guard_metrics() -> None:
    """Put `/metrics` behind the login, too, which Flower leaves open: it names jobs and devices."""
    from flower.views.monitor import Metrics
    from tornado.web import authenticated

    Metrics.get = authenticated(Metrics.get)
