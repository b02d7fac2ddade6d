"""How a connection is encrypted, said alike for every broker."""

from __future__ import annotations

import ssl

import msgspec

from .errors import AdapterError, Fault


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a connection is encrypted; a config says ``tls: bool | Tls``, true for the system's certificates."""

    ca: str | None = None
    """Path of the certificates that vouch for the server; None: the system's."""
    cert: str | None = None
    """Path of the client's certificate."""
    key: str | None = None
    """Path of the client's key."""
    verify: bool = True
    """Check the server's certificate and name."""

    @classmethod
    def of(cls, value: bool | Tls) -> Tls:
        """Return what a config's field means."""
        return value if isinstance(value, Tls) else cls()

    def problem(self, field: str = "tls") -> str:
        """Return what contradicts itself, naming the config's `field`, or an empty text."""
        if self.key and not self.cert:
            return f"{field}.key: needs config.{field}.cert"
        if self.ca and not self.verify:
            return f"{field}.verify: false makes config.{field}.ca useless; give one of them"
        return ""

    def context(self, field: str = "tls") -> ssl.SSLContext:
        """Read the files and make the context for a client library.

        Raises:
            AdapterError: ``CONFIG``, naming the config's `field` and the file that cannot be read or used.
        """
        for name, path in (("ca", self.ca), ("cert", self.cert), ("key", self.key)):
            try:
                if path is not None:
                    open(path, "rb").close()  # what `ssl` raises does not name the file
            except OSError as error:
                reason = error.strerror or type(error).__name__
                raise AdapterError(
                    Fault.CONFIG, f"config.{field}.{name}: {path!r} cannot be read ({reason})"
                ) from error
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except ssl.SSLError as error:
            text = f"config.{field}: a certificate or key is not one ({error.reason or type(error).__name__})"
            raise AdapterError(Fault.CONFIG, text) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
