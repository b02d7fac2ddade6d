"""The file: one native connection, used by one thread, which does together what waits for it.

Writing calls that wait at the same time are one transaction, so one `fsync` confirms all of them. If it fails they are
done one by one: each gets its own answer.

The lock is waited for in the system's time, not the site's: another process has it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ductape.adapter import AdapterError, Fault, Site

from ._config import SqliteConfig
from ._schema import prepare
from ._wire import fault_of

__all__ = ["File"]

T = TypeVar("T")
Act = Callable[[sqlite3.Connection], Any]

OLDEST = (3, 38, 0)
"""The first SQLite with `json_each` built in and ``RETURNING``."""
LOOK = 0.25
"""Seconds between two looks whether another program changed the file without a word, while somebody waits."""
TURN = 0.0005, 0.002
"""Seconds between two tries to lock the file, at first and later: SQLite's own waits grow to 0.1 s."""


class _Job:
    """One call that waits for the thread."""

    __slots__ = ("act", "durable", "error", "future", "peek", "result", "until")

    def __init__(self, act: Act | None, peek: Act | None, durable: bool, until: float) -> None:
        self.act, self.peek, self.durable, self.until = act, peek, durable, until
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.result: Any = None
        self.error: AdapterError | None = None

    def answer(self) -> None:
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class File:
    """One SQLite file as one connection has it open.

    Attributes:
        path: Where it is.
        closed: It is closed: every call raises ``LOST``.
        watching: There are receivers, for which the thread looks now and then what others did.
    """

    def __init__(self, config: SqliteConfig, site: Site, changed: Callable[[], None]) -> None:
        """Describe a file; `open` opens it.

        Args:
            config: Which, and how.
            site: Where we are.
            changed: Called on the loop when another program has written into it.
        """
        self.path = Path(config.path).expanduser().absolute()
        self.closed = False
        self.watching = False
        self._config, self._site, self._changed = config, site, changed
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._identity = (0, 0)
        self._version = 0
        self._looked = 0.0
        self._synchronous = ""
        self._thread = threading.Thread(target=self._run, name="ductape-sqlite", daemon=True)

    async def open(self) -> None:
        """Start the thread, and open the file there.

        Raises:
            AdapterError: ``CONFIG`` or ``TRANSIENT``: it cannot be used, or not now.
        """
        first = self._job(None, lambda db: None)
        self._thread.start()
        try:
            await first.future
        except AdapterError:
            self.closed = True
            raise

    async def read(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """Have the thread read, outside a transaction."""
        answer: T = await self._job(None, act).future
        return answer

    async def write(
        self,
        act: Callable[[sqlite3.Connection], T],
        *,
        peek: Callable[[sqlite3.Connection], T | None] | None = None,
        durable: bool = True,
        within: float = 0.0,
    ) -> T:
        """Have the thread do `act` in a transaction.

        Args:
            act: Is called with the native connection; more than once if a transaction had to be divided.
            peek: Is called before; what it returns is the answer without a transaction, unless that is None.
            durable: It is answered when the disk has it, as `synchronous` says; else when the system has it.
            within: Seconds to wait for the lock; 0: as configured.

        Raises:
            AdapterError: Nothing of it was done; ``AMBIGUOUS``: perhaps it was.
        """
        answer: T = await self._job(act, peek, durable=durable, within=within).future
        return answer

    def _job(self, act: Act | None, peek: Act | None, *, durable: bool = False, within: float = 0.0) -> _Job:
        if self.closed:
            raise AdapterError(Fault.LOST, "the connection is closed")
        job = _Job(act, peek, durable, time.monotonic() + (within or self._config.busy_timeout))
        self._jobs.put(job)
        return job

    async def close(self) -> None:
        """Do what waits, then close; idempotent. A thread that a dead disk holds up is left to itself."""
        if not self.closed:
            self.closed = True
            self._jobs.put(None)
        if self._thread.ident is not None:
            await asyncio.shield(self._ended)

    # -- on the thread

    def _run(self) -> None:
        db: sqlite3.Connection | None = None
        try:
            opening = self._jobs.get()
            assert opening is not None
            try:
                db = self._open()
            except Exception as error:
                opening.error = fault_of(error, str(self.path))
            self._answer([opening])
            if db is not None:
                self._serve(db)
        finally:
            self.closed = True
            if db is not None:
                db.close()
            self._tell(self._end)

    def _serve(self, db: sqlite3.Connection) -> None:
        ending = False
        while not ending:
            try:
                first = self._jobs.get(timeout=LOOK if self.watching else None)
            except queue.Empty:
                self._look(db)
                continue
            jobs = [first]
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            ending = None in jobs
            self._round(db, [job for job in jobs if job is not None])
            if self.watching and time.monotonic() - self._looked >= LOOK:
                self._look(db)  # who has always something to do hears of others too

    def _round(self, db: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
        writes = []
        for job in jobs:
            if job.peek is not None:
                try:
                    self._same()
                    job.result = job.peek(db)
                except Exception as error:
                    job.error = fault_of(error, str(self.path))
            if job.act is not None and job.result is None and job.error is None:
                writes.append(job)
        self._transact(db, writes)
        self._answer(jobs)

    def _transact(self, db: sqlite3.Connection, jobs: Sequence[_Job], *, full: bool = False) -> None:
        """Do all in one transaction, or each in its own if that fails; `full`: once more, room was made."""
        if not jobs:
            return
        committing = False
        try:
            self._same()
            self._sync(db, any(job.durable for job in jobs))
            self._patiently(db, "BEGIN IMMEDIATE", min(job.until for job in jobs))
            for job in jobs:
                job.result = job.act(db)  # type: ignore[misc]  # those that write have one
            committing = True
            db.execute("COMMIT")
            return
        except Exception as error:
            self._undo(db)
            fault = fault_of(error, str(self.path), committing=committing)
        if _code(fault) == sqlite3.SQLITE_FULL and not full:
            self._make_room(db)
            self._transact(db, jobs, full=True)
        elif len(jobs) > 1 and fault.fault is not Fault.AMBIGUOUS and _code(fault) != sqlite3.SQLITE_BUSY:
            for job in jobs:
                self._transact(db, [job], full=full)
        else:
            for job in jobs:
                job.error = fault

    def _patiently(self, db: sqlite3.Connection, statement: str, until: float) -> sqlite3.Cursor:
        """Do what needs the lock. SQLite's own waiting is not used: it is unfair, and slow when it is long."""
        pause, longest = TURN
        while True:
            try:
                return db.execute(statement)
            except sqlite3.OperationalError as error:
                over = self.closed or time.monotonic() >= until
                if over or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, longest)

    def _undo(self, db: sqlite3.Connection) -> None:
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._site.log.debug("rollback: %s", type(error).__name__)

    def _make_room(self, db: sqlite3.Connection) -> None:
        """Move what is in the log of writes into the file, and give its room back: else nothing could be settled."""
        try:
            db.execute("PRAGMA wal_checkpoint(truncate)").fetchall()
        except sqlite3.Error as error:
            self._site.log.debug("checkpoint: %s", type(error).__name__)

    def _sync(self, db: sqlite3.Connection, durable: bool) -> None:
        wanted = self._config.synchronous if durable or self._config.synchronous == "off" else "normal"
        if wanted != self._synchronous:
            db.execute(f"PRAGMA synchronous = {wanted}")
            self._synchronous = wanted

    def _look(self, db: sqlite3.Connection) -> None:
        self._looked = time.monotonic()
        try:
            [version] = db.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return  # whoever calls next is told
        if version != self._version:
            self._version = version
            self._tell(self._changed)

    def _same(self) -> None:
        """Raise if the file was removed or replaced: what is written into it would be seen by nobody else."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            raise AdapterError(Fault.LOST, f"{self.path}: the file was removed") from None
        if (found.st_dev, found.st_ino) != self._identity:
            raise AdapterError(Fault.LOST, f"{self.path}: the file was replaced by another")

    def _open(self) -> sqlite3.Connection:
        if self._site.create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.is_file():
            raise AdapterError(Fault.CONFIG, f"{self.path}: there is no such file, and it may not be created here")
        if sqlite3.sqlite_version_info < OLDEST:
            text = f"SQLite {sqlite3.sqlite_version} is too old: use a Python that has 3.38 or later"
            raise AdapterError(Fault.CONFIG, text)
        until = time.monotonic() + self._config.busy_timeout
        db = sqlite3.connect(self.path, isolation_level=None, timeout=self._config.busy_timeout)
        try:
            [mode] = self._patiently(db, "PRAGMA journal_mode = wal", until).fetchone()
            if mode != "wal":
                text = f"{self.path}: its file system does not share memory between processes (mode {mode}, not wal)"
                raise AdapterError(Fault.CONFIG, text)
            db.execute("PRAGMA secure_delete = off")
            db.execute("PRAGMA cache_size = -16384")
            for name, value in self._config.native.items():
                db.execute(f"PRAGMA {name} = {value}")
            prepare(db, self._site.create)
            db.execute("PRAGMA temp_store = memory")
            db.execute("CREATE TEMP TABLE ductape_keys (key BLOB PRIMARY KEY)")
            db.text_factory = bytes  # other programs may have written what is no text
            db.execute("PRAGMA busy_timeout = 0")
            found = os.stat(self.path)
            self._identity = found.st_dev, found.st_ino
        except BaseException:
            db.close()
            raise
        return db

    # -- back to the loop

    def _answer(self, jobs: Sequence[_Job]) -> None:
        def tell() -> None:
            for job in jobs:
                job.answer()

        self._tell(tell)

    def _tell(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self.closed = True

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def __repr__(self) -> str:
        return f"<File {self.path.name} {'closed' if self.closed else 'open'} waiting={self._jobs.qsize()}>"


def _code(error: AdapterError) -> int:
    code: int = getattr(error.__cause__, "sqlite_errorcode", 0)
    return code & 0xFF
