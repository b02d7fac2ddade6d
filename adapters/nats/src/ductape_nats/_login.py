"""How one logs in: nats-py's client and its options, and what it means when that fails."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import nats.errors
from nats.aio.client import Client

from ductape.adapter import AdapterError, Fault, Tls

from ._config import NatsConfig

__all__ = ["Login", "connect_fault", "options_of"]

ALIVE = 5
"""Seconds between the client's own pings; two without an answer end the connection."""
_REFUSED = ("authorization", "authentication", "permissions", "account", "expired", "revoked", "jwt")


class Login(Client):
    """nats-py's client, which sends credentials in the clear where a server offers no encryption; this one does not."""

    encrypted = False
    _reading_task: asyncio.Task[None]

    def _connect_command(self) -> bytes:
        transport: Any = self._transport
        writer = getattr(transport, "_io_writer", None)
        if self.encrypted and writer is not None and writer.get_extra_info("ssl_object") is None:
            raise AdapterError(Fault.CONFIG, "config.tls: the server offers no encryption; nothing was sent to it")
        command: bytes = super()._connect_command()
        return command


def options_of(config: NatsConfig, name: str) -> dict[str, Any]:
    """Return nats-py's options: it tries every server once, retries nothing, and buffers nothing while it is away."""
    options: dict[str, Any] = {
        "name": name, "max_reconnect_attempts": 1, "reconnect_time_wait": 0, "connect_timeout": 3,
        "ping_interval": ALIVE, "max_outstanding_pings": 2,
    }  # fmt: skip
    if config.user is not None and config.password is not None:
        options |= {"user": config.user, "password": config.password.reveal()}
    if config.token is not None:
        options["token"] = config.token.reveal()
    if config.creds is not None:
        _check_file("creds", config.creds)
        options["user_credentials"] = config.creds
    if config.tls:
        options["tls"] = Tls.of(config.tls).context()
    return options | dict(config.native) | {"allow_reconnect": False, "pending_size": 0}


def _check_file(field: str, path: str) -> None:
    """See that a file can be read: what nats-py says names none, or is taken for a broken network."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        text = f"config.{field}: {path!r} cannot be read ({error.strerror or type(error).__name__})"
        raise AdapterError(Fault.CONFIG, text) from error


def connect_fault(error: Exception, errors: list[Exception], config: NatsConfig) -> AdapterError:
    """Tell what only an operator can mend from a server that is away. Native texts may hold passwords."""
    for each in (error, *reversed(errors)):
        if isinstance(each, AdapterError):
            return each
        if isinstance(each, ssl.SSLCertVerificationError):
            return AdapterError(Fault.CONFIG, f"config.tls: the server's certificate is refused: {each.verify_message}")
        if isinstance(each, ssl.SSLError):
            return AdapterError(Fault.CONFIG, f"config.tls: no encryption with this server: {each.reason}")
        text = str(each).lower()
        if isinstance(each, nats.errors.Error) and _is_refusal(text):
            told = text.removeprefix("nats: ").strip("'")
            return AdapterError(Fault.CONFIG, f"the server refuses the login ({told}); see config.user, token, creds")
    if isinstance(error, nats.errors.Error | OSError | TimeoutError):
        cause = errors[-1] if errors else error
        detail = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(cause).__name__
        if "expecting INFO" in str(cause):
            detail = "what answers there does not speak NATS"
        return AdapterError(Fault.TRANSIENT, f"no connection to {', '.join(_hosts(config))}: {detail}")
    text = f"config: nats-py refuses servers, credentials or native options ({type(error).__name__})"
    return AdapterError(Fault.CONFIG, text)


def _is_refusal(text: str) -> bool:
    """Tell a refused login from a server or an account that is full for now."""
    return any(word in text for word in _REFUSED) and "connections exceeded" not in text


def _hosts(config: NatsConfig) -> list[str]:
    return [url.rpartition("@")[2].rpartition("//")[2] for url in config.urls()]
