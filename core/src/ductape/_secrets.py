"""Values that must never be shown."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(?<=://)([^:@/]*):.*@")
_TOKEN = re.compile(r"(?<=://)[^:@/?#]+@")
_QUERY = re.compile(r"(?i)([?&][^=&]*(?:password|secret|token|key)[^=&]*=)[^&#]*")


class Secret:
    """A string that shows itself only to `reveal`.

    Use it as a config field's type: a plain string in the configuration becomes one.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Hide `value`."""
        self._value = value

    def reveal(self) -> str:
        """Return the value, for the client library and nothing else."""
        return self._value

    def __repr__(self) -> str:
        return "'***'"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled or copied")


class SecretUrl(Secret):
    """A URL whose password is hidden and whose rest is shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = _PASSWORD.sub(r"\1:***@", _TOKEN.sub("***@", self._value))
        return repr(_QUERY.sub(r"\1***", shown))

    __str__ = __repr__
