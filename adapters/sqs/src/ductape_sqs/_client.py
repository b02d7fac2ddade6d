"""Calls SQS: botocore's credentials, endpoint and connections, our own signature and JSON.

A call of aiobotocore costs 500 to 900 µs of CPU, whatever it carries; this costs a quarter of that.
Requests follow https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html,
signatures https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import time
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiobotocore.client import AioBaseClient  # type: ignore[import-untyped]
from botocore.awsrequest import AWSPreparedRequest  # type: ignore[import-untyped]
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    MetadataRetrievalError,
    ProxyConnectionError,
)

from ductape.adapter import AdapterError, Clock, Fault

from ._wire import code_of, fault_of

__all__ = ["CALL", "CREDENTIALS", "Client", "Refused", "credentials_fault"]

T = TypeVar("T")

CALL: Final = 4.0
"""Seconds for a call that does not poll."""
CREDENTIALS: Final = (BotoCoreError, ClientError, RuntimeError)
"""What looking for credentials raises: STS and SSO refuse with the second, and keys renewed too late are the third."""
_TYPE: Final = "application/x-amz-json-1.0"
_SIGNED: Final = "content-type;host;x-amz-date;x-amz-target"
_SIGNED_TOKEN: Final = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
_encode = msgspec.json.Encoder().encode


class Refused(AdapterError):
    """SQS said no.

    Attributes:
        code: AWS's word for why.
    """

    def __init__(self, error: AdapterError, code: str) -> None:
        """Add the code to a classified refusal."""
        super().__init__(error.fault, error.text)
        self.code = code


class _Refusal(msgspec.Struct):
    """The body of an answer that is not well."""

    type: str = msgspec.field(name="__type", default="")


class Client:
    """Makes single calls, and never repeats one.

    Attributes:
        native: aiobotocore's client, for those who want it.
        endpoint: The address that is called.
        closed: No call goes out any more.
    """

    def __init__(self, native: AioBaseClient, credentials: Any, clock: Clock) -> None:
        """Call through the connections of a client.

        Args:
            native: Knows the endpoint, and has the connections.
            credentials: botocore's, which renew themselves.
            clock: Tells the time for signatures.
        """
        self.native = native
        self.endpoint: str = native.meta.endpoint_url
        self.closed = False
        self._region: str = native.meta.region_name
        self._http = native._endpoint.http_session
        self._credentials, self._clock = credentials, clock
        parts = urlsplit(self.endpoint)
        usual = {"http": 80, "https": 443}.get(parts.scheme)
        self._host = (parts.hostname or "") if parts.port in (None, usual) else parts.netloc
        self._path = parts.path or "/"
        self._keys: tuple[str, str, bytes] = ("", "", b"")

    async def call(self, operation: str, request: object, answer: type[T], seconds: float = CALL) -> T:
        """Make one call.

        Args:
            operation: As in ``SendMessageBatch``.
            request: What is sent, as JSON.
            answer: What comes back.
            seconds: The bound.

        Raises:
            AdapterError: It was refused or not answered; ``AMBIGUOUS`` only for what is not simply said again.
        """
        if self.closed:
            raise AdapterError(Fault.LOST, "the connection is closed")
        try:
            return await self._call(operation, request, answer, seconds)
        except AdapterError as error:
            if self.closed:
                raise AdapterError(Fault.LOST, f"{operation}: the connection was closed") from error
            if error.fault is Fault.AMBIGUOUS and operation != "SendMessageBatch":  # it may simply be said again
                raise AdapterError(Fault.TRANSIENT, error.text) from error
            raise

    async def _call(self, operation: str, request: object, answer: type[T], seconds: float) -> T:
        try:
            async with asyncio.timeout(seconds):
                signed = await self._request(operation, _encode(request))
                reply = await self._http.send(signed)
                content: bytes = await reply.content
        except TimeoutError as late:
            raise AdapterError(Fault.AMBIGUOUS, f"{operation}: no answer within {seconds:g} s") from late
        except (BotoCoreError, aiohttp.ClientError, OSError) as native:
            raise self._unanswered(operation, native) from native
        if reply.status_code != 200:
            raise _refused(operation, reply.status_code, reply.headers, content)
        try:
            return msgspec.json.decode(content, type=answer)
        except msgspec.MsgspecError as broken:
            raise AdapterError(Fault.AMBIGUOUS, f"{operation}: an answer that is not SQS's") from broken

    def _unanswered(self, operation: str, native: Exception) -> AdapterError:
        # aiobotocore has one error for a connection that could not be made and for one that was reset under way.
        never = isinstance(native, ConnectTimeoutError | ProxyConnectionError) or (
            isinstance(native, EndpointConnectionError)
            and isinstance(native.__context__, aiohttp.ClientConnectorError | socket.gaierror)
        )
        what = f"no connection to {self.endpoint}" if never else "the connection broke"
        fault = Fault.TRANSIENT if never else Fault.AMBIGUOUS
        return AdapterError(fault, f"{operation}: {what} ({type(native).__name__})")

    async def _request(self, operation: str, body: bytes) -> AWSPreparedRequest:
        """Sign a call: AWS Signature Version 4."""
        try:
            keys = await self._credentials.get_frozen_credentials()
        except CREDENTIALS as error:
            raise credentials_fault(error) from error
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock.time()))
        target, scope = f"AmazonSQS.{operation}", f"{now[:8]}/{self._region}/sqs/aws4_request"
        signed = _SIGNED_TOKEN if keys.token else _SIGNED
        token = f"x-amz-security-token:{keys.token}\n" if keys.token else ""
        canonical = (
            f"POST\n{self._path}\n\ncontent-type:{_TYPE}\nhost:{self._host}\nx-amz-date:{now}\n{token}"
            f"x-amz-target:{target}\n\n{signed}\n{hashlib.sha256(body).hexdigest()}"
        )
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._key(keys.secret_key, now[:8]), text.encode(), "sha256").hex()
        credential = f"Credential={keys.access_key}/{scope}"
        headers = {
            "Host": self._host,
            "Content-Type": _TYPE,
            "X-Amz-Date": now,
            "X-Amz-Target": target,
            "Authorization": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={signed}, Signature={signature}",
        }
        if keys.token:
            headers["X-Amz-Security-Token"] = keys.token
        return AWSPreparedRequest("POST", self.endpoint, headers, body, stream_output=False)

    def _key(self, secret: str, day: str) -> bytes:
        """Return the key of a day, which is worked out once."""
        if self._keys[:2] != (secret, day):
            key = ("AWS4" + secret).encode()
            for part in (day, self._region, "sqs", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._keys = (secret, day, key)
        return self._keys[2]

    def __repr__(self) -> str:
        return f"<Client {self.endpoint} {self._region}{' closed' if self.closed else ''}>"


def credentials_fault(error: Exception) -> AdapterError:
    """Return the `AdapterError` for credentials that cannot be had."""
    fetched = isinstance(error, CredentialRetrievalError | MetadataRetrievalError | HTTPClientError | RuntimeError)
    what = type(error).__name__
    if isinstance(error, ClientError):
        what = str(error.response.get("Error", {}).get("Code", what))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        fetched = status >= 500 or fault_of("", what, status).fault is Fault.TRANSIENT
    text = f"credentials cannot be had ({what}): see to config.access_key_id, or to AWS's own settings"
    return AdapterError(Fault.TRANSIENT if fetched else Fault.CONFIG, text)


def _refused(operation: str, status: int, headers: dict[str, str], content: bytes) -> Refused:
    """Read a refusal; a header has the older protocol's code, where the body has none."""
    try:
        code = msgspec.json.decode(content, type=_Refusal).type
    except msgspec.MsgspecError:
        code = ""
    code = code_of(code or headers.get("x-amzn-query-error", ""))
    return Refused(fault_of(operation, code, status), code)
