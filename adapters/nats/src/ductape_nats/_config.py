"""What an environment's config may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from ductape.adapter import Secret, SecretUrl, Tls

__all__ = ["NatsConfig"]

SCHEMES = ("nats", "tls")
OURS = frozenset(["servers", "allow_reconnect", "pending_size", "error_cb"])
"""Options of nats-py that the adapter cannot leave to others."""


class NatsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The servers of one NATS system, and how its streams are used."""

    servers: str | list[str] = "nats://localhost:4222"
    """``host:port``, ``nats://`` or ``tls://``; several as a list, or separated by commas."""
    user: str | None = None
    """A user's name; with `password`."""
    password: Secret | None = msgspec.field(default=None, name="pass")
    """The user's, written ``pass``."""
    token: Secret | None = None
    """A token, instead of a user."""
    creds: str | None = None
    """Path of a credentials file (JWT and seed), instead of a user."""
    tls: bool | Tls = False
    """Encrypted, with the system's certificates, or with `ca`, `cert`, `key` (paths) and `verify`."""
    name: str | None = None
    """The connection's name, as the server shows it; None: product, environment and broker."""
    max_reconnect_attempts: int = -1
    """After how many failures in a row a subscription gives up; -1: never."""
    reconnect_time_wait: int = 50
    """Milliseconds before the first of them; each further one waits twice as long, up to 10 seconds."""
    mode: Literal["jetstream", "core"] = "jetstream"
    """``jetstream`` stores messages for groups; ``core`` gives them to whoever listens now and keeps nothing."""
    subject: str | None = None
    """The one subject, literally."""
    group: str | None = None
    """The default group."""
    lease: float = 30.0
    """Seconds after which a message whose consumer is silent goes to another member (``ack_wait``)."""
    storage: Literal["file", "memory"] = "file"
    """Where a stream that ductape creates keeps its messages; ``memory`` does not survive its server."""
    replicas: int = 1
    """On how many servers such a stream is kept."""
    max_age: float | None = None
    """Seconds for which such a stream keeps a message, settled or not; None: for ever."""
    max_bytes: int | None = None
    """Size beyond which such a stream drops its oldest messages, settled or not; None: the server's limit."""
    native: Mapping[str, object] = {}
    """Options for ``nats.connect``, as they are."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; the kernel makes a ``CONFIG_INVALID`` with its place of it.

        Raises:
            ValueError: Naming the field.
        """
        problem = _server_problem(self) or _login_problem(self) or _stream_problem(self) or Tls.of(self.tls).problem()
        if not problem and (taken := sorted(OURS & set(self.native))):
            problem = f"native.{taken[0]}: is the adapter's own"
        if problem:
            raise ValueError(problem)

    def urls(self) -> list[str]:
        """Return the addresses, one by one."""
        given = self.servers if isinstance(self.servers, list) else [self.servers]
        return [url.strip() for each in given for url in each.split(",") if url.strip()]

    def __repr__(self) -> str:
        """Show all but secrets: an address may hold one, and a list of `SecretUrl` cannot be told from one of them."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown["servers"] = [SecretUrl(url) for url in self.urls()]
        return f"NatsConfig({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _server_problem(config: NatsConfig) -> str:
    urls = config.urls()
    if not urls:
        return "servers: is empty"
    schemes = {url.partition("://")[0] if "://" in url else "nats" for url in urls}
    if unknown := sorted(schemes - set(SCHEMES)):
        return f"servers: {unknown[0]}:// is none of {', '.join(f'{each}://' for each in SCHEMES)}"
    return ""


def _login_problem(config: NatsConfig) -> str:
    given = [name for name in ("user", "token", "creds") if getattr(config, name) is not None]
    if len(given) > 1:
        return f"{given[1]}: config.{given[0]} says who this is; give one of them"
    if (config.user is None) != (config.password is None):
        missing = "user" if config.user is None else "pass"
        return f"{missing}: config.user and config.pass go together"
    for field in given:
        value = getattr(config, field)
        if (value.reveal() if isinstance(value, Secret) else value) == "":
            return f"{field}: is empty"
    return ""


def _stream_problem(config: NatsConfig) -> str:
    if not 0.2 <= config.lease <= 86_400:
        return f"lease: {config.lease:g} is not between 0.2 and 86400 seconds"
    if not 1 <= config.replicas <= 5:
        return f"replicas: {config.replicas} is not between 1 and 5"
    if config.max_age is not None and not config.max_age >= 1:
        return f"max_age: {config.max_age:g} is less than a second"
    if config.max_bytes is not None and config.max_bytes < 1:
        return f"max_bytes: {config.max_bytes} is not positive"
    if config.reconnect_time_wait < 0:
        return f"reconnect_time_wait: {config.reconnect_time_wait} is negative"
    for field in ("subject", "group", "name"):
        if getattr(config, field) == "":
            return f"{field}: is empty"
    return ""
