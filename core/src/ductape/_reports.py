"""What an application is told of its failures: each kind once, and its dead letters in one line a second at most."""

from __future__ import annotations

import logging
import os
import traceback

from ._clock import Clock
from ._retry import RetryLater, Step

_FOREIGN = (os.path.dirname(os.__file__), os.path.dirname(__file__), "<")
"""Where no application has its code."""

log = logging.getLogger("ductape.subscription")


class Reports:
    """Warnings of one subscription. They name classes, files and lines: texts of exceptions may hold payloads."""

    def __init__(self, event: str, group: str, clock: Clock) -> None:
        """Nothing was told yet."""
        self._event, self._where, self._clock = event, f"{event} in {group!r}", clock
        self._list = f"ductape dead list {event} --group {group}"
        self._seen: set[str] = set()
        self._told, self._more = False, 0
        """A dead letter was, within the last second; and how many came since."""

    def failed(self, error: BaseException, id: str, attempt: str, step: Step, delay: float) -> None:
        """Log an attempt: the first of its kind as a warning, unless a dead letter's follows; others at INFO."""
        kind, end = type(error).__name__, step is Step.BURY
        first = kind not in self._seen
        level = logging.WARNING if first and not end and not isinstance(error, RetryLater) else logging.INFO
        if log.isEnabledFor(level):
            then = "it is not tried again" if end else f"it is tried again in {delay:.3g} s"
            text = f"attempt {attempt} failed: {place_of(error)}; {then}"
            log.log(level, "%s: %s", self._where, text, extra={"event": self._event, "message_id": id})
        if first:
            self._seen.add(kind)
            log.debug("%s: %s was raised at\n%s", self._where, kind, "".join(traceback.format_tb(error.__traceback__)))

    def buried(self, error: BaseException | str, id: str, reason: str) -> None:
        """Warn of a dead letter; those of the same second are counted."""
        if self._told:
            self._more += 1
            return
        what = error if isinstance(error, str) else place_of(error)
        text = f"message {id!r} goes to the dead letters ({reason}): {what}. See: {self._list}"
        log.warning("%s: %s", self._where, text, extra={"event": self._event, "message_id": id})
        self._told = True
        self._clock.call_later(1.0, self._rest)

    def _rest(self) -> None:
        self._told, more, self._more = self._more > 0, self._more, 0
        if more:
            log.warning("%s: %d more went to the dead letters within a second", self._where, more)
            self._clock.call_later(1.0, self._rest)


def place_of(error: BaseException) -> str:
    """Return an error's class, and file and line of the innermost frame that is the application's own."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [each for each in frames if not each[0].startswith(_FOREIGN) and "site-packages" not in each[0]] or frames
    return " at ".join([type(error).__name__, *(f"{os.path.basename(file)}:{line}" for file, line in own[-1:])])
