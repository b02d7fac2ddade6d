"""As whom, and over what: credentials, and gRPC channels of our own."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # grpcio ships no annotations
import msgspec

from ductape.adapter import AdapterError, Fault

from ._config import GooglePubSubConfig

__all__ = ["Access", "Login"]

SCOPE: Final = "https://www.googleapis.com/auth/pubsub"
LOGIN: Final = 8.5
"""Seconds for finding credentials and a first token."""
TOKEN: Final = 4.0
"""Seconds in which a token endpoint must answer: the library waits two minutes, and so would a process that ends."""

_OPTIONS: Final[dict[str, str | int]] = {
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    "grpc.max_metadata_size": 4 << 20,  # an exactly-once subscription answers for every id there
    "grpc.keepalive_time_ms": 30_000,
    "grpc.http2.ping_timeout_ms": 10_000,  # without it, a dead peer is noticed after a minute
    "grpc.min_reconnect_backoff_ms": 3_000,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1_000,
    "grpc.enable_retries": 0,  # repeating is the kernel's
    "grpc.service_config_disable_resolution": 1,
    "grpc.use_local_subchannel_pool": 1,  # else all channels of this process share one connection
}


_users: Final[set[int]] = set()
"""Ids of the processes that used gRPC, of this one and those that it was forked from."""


class Access:
    """Where the service is, and the credentials for it; opens channels."""

    def __init__(self, target: str, project: str, native: dict[str, str | int], credentials: Any, request: Any) -> None:
        """Keep what `of` found; without credentials a channel is not encrypted."""
        self.target, self.project = target, project
        self._native, self._credentials, self._request = native, credentials, request

    @classmethod
    async def of(cls, config: GooglePubSubConfig) -> Access:
        """Find the emulator or the credentials, and get a first token.

        Raises:
            AdapterError: ``CONFIG``, or ``TRANSIENT`` if the token cannot be had now.
        """
        emulator = config.emulator_host
        if emulator is None and config.key_filename is None:
            emulator = os.environ.get("PUBSUB_EMULATOR_HOST") or None
        native = _OPTIONS | dict(config.native)
        if emulator is None and config.lease < 10:
            raise AdapterError(Fault.CONFIG, f"config.lease: {config.lease} is not between 10 and 600 seconds")
        if emulator is not None:
            project = config.project_id or os.environ.get("GOOGLE_CLOUD_PROJECT")
            return cls(emulator, _project(project), native | {"grpc.enable_http_proxy": 0}, None, None)
        try:
            async with asyncio.timeout(LOGIN):
                credentials, found, request = await asyncio.to_thread(_login, config.key_filename)
        except TimeoutError:
            raise AdapterError(Fault.TRANSIENT, f"no credentials within {LOGIN:g} s: Google does not answer") from None
        return cls(config.endpoint, _project(config.project_id or found), native, credentials, request)

    def channel(self) -> Any:
        """Open a `grpc.aio.Channel`; it connects with its first call, and again after a break.

        Raises:
            AdapterError: ``CONFIG`` for options that gRPC refuses, and in a process that was forked from one that used
                gRPC: it would crash.
        """
        _users.add(os.getpid())
        if len(_users) > 1:
            text = "gRPC was used before this process was forked, and does not survive that: fork first, or spawn"
            raise AdapterError(Fault.CONFIG, text)
        options = list(self._native.items())
        try:
            if self._credentials is None:
                return grpc.aio.insecure_channel(self.target, options=options)
            login = grpc.metadata_call_credentials(Login(self._credentials, self._request))
            encrypted = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(), login)
            return grpc.aio.secure_channel(self.target, encrypted, options=options)
        except (TypeError, ValueError) as error:
            text = f"config.native: gRPC refuses these channel options ({type(error).__name__})"
            raise AdapterError(Fault.CONFIG, text) from None

    def close(self) -> None:
        """Close what fetches tokens. Idempotent."""
        if self._request is not None:
            self._request.func.session.close()


class Login(grpc.AuthMetadataPlugin):  # type: ignore[misc]  # grpcio ships no annotations
    """Gives every call its token, in a thread of gRPC's. The library's own does too, but its errors quote answers."""

    def __init__(self, credentials: Any, request: Any) -> None:
        """Keep credentials, and what fetches tokens for them."""
        self._credentials, self._request = credentials, request

    def __call__(self, context: Any, callback: Any) -> None:
        """Get a token that is valid now, from memory nearly always."""
        headers: dict[str, str] = {}
        try:
            self._credentials.before_request(self._request, context.method_name, context.service_url, headers)
        except Exception as error:
            again = getattr(error, "retryable", False) or type(error).__name__ == "TransportError"
            callback((), RuntimeError(f"{type(error).__name__}, {'for now' if again else 'refused'}"))
        else:
            callback(tuple(headers.items()), None)


def _project(project: str | None) -> str:
    if not project:
        raise AdapterError(Fault.CONFIG, "config.project_id: is missing, and neither key nor credentials name one")
    return project


def _login(key_filename: str | None) -> tuple[Any, str | None, Any]:
    """Load credentials and get a token; blocks, in a thread. Texts of the library may quote the key: none is kept."""
    import google.auth
    from google.auth import exceptions
    from google.auth.transport.requests import Request

    request: Any = partial(Request(), timeout=TOKEN)
    try:
        if key_filename is not None:
            credentials, project = _key(key_filename)
        else:
            credentials, project = google.auth.default(scopes=[SCOPE], request=request)
        credentials.refresh(request)
    except BaseException as error:
        request.func.session.close()
        if isinstance(error, exceptions.DefaultCredentialsError):
            text = (
                "no default credentials: set config.key_filename or GOOGLE_APPLICATION_CREDENTIALS, run "
                "`gcloud auth application-default login`, or set config.emulator_host"
            )
            raise AdapterError(Fault.CONFIG, text) from None
        if isinstance(error, exceptions.GoogleAuthError):
            whose = "config.key_filename" if key_filename is not None else "the default credentials"
            again = isinstance(error, exceptions.TransportError) or error.retryable
            advice = "the token endpoint cannot be reached" if again else "the key was deleted, or is another's"
            text = f"{whose}: no token ({type(error).__name__}): {advice}"
            raise AdapterError(Fault.TRANSIENT if again else Fault.CONFIG, text) from None
        raise
    return credentials, project, request


def _key(path: str) -> tuple[Any, str | None]:
    from google.oauth2 import service_account

    where = "config.key_filename"
    try:
        info = msgspec.json.decode(Path(path).expanduser().read_bytes(), type=dict[str, object])
    except OSError as error:
        raise AdapterError(Fault.CONFIG, f"{where}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, ValueError):
        raise AdapterError(Fault.CONFIG, f"{where}: is not JSON; give the key file of a service account") from None
    if info.get("type") != "service_account":
        text = f"{where}: is not the key of a service account; for other credentials leave it out, and set "
        raise AdapterError(Fault.CONFIG, text + "GOOGLE_APPLICATION_CREDENTIALS to this file")
    try:
        credentials = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]  # bare
            info, scopes=[SCOPE]
        )
    except Exception as error:  # a key that is cut or edited; which error depends on the library below
        text = f"{where}: is no whole key of a service account ({type(error).__name__}); download it anew"
        raise AdapterError(Fault.CONFIG, text) from None
    project = info.get("project_id")
    return credentials, project if isinstance(project, str) else None
