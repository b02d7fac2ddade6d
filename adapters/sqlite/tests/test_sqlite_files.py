"""The file: what can be wrong with it is told by a typed error that says what to do, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest

from ductape import Ductape
from ductape.adapter import AdapterError, Fault, Stored
from ductape.errors import OpenError, PublishError
from ductape_sqlite import SqliteConfig
from ductape_sqlite._schema import STEPS, prepare
from ductape_sqlite._wire import fault_of


async def told(call: Any) -> AdapterError:
    with pytest.raises(AdapterError) as error:
        await call
    return error.value


# ---------------------------------------------------------------- opening


async def test_a_missing_folder_is_created_and_where_nothing_may_be_created_it_is_told(world: Any) -> None:
    world.path = world.path.parent / "a" / "b" / "events.db"
    error = await told(world.connect(create=False))
    assert error.fault is Fault.CONFIG
    assert str(world.path) in str(error)
    assert not world.path.parent.exists()
    await world.connect()
    await world.connect(create=False)


async def test_a_file_of_a_newer_version_is_left_alone(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "m1")
    await connection.close()
    world.sql("UPDATE ductape_meta SET value = 99 WHERE name = 'version'")
    before = world.path.read_bytes()
    error = await told(world.connect())
    assert error.fault is Fault.CONFIG
    assert "version 99" in str(error)
    assert "newer ductape-sqlite" in str(error)
    assert world.path.read_bytes() == before


def test_a_file_of_an_older_version_is_migrated_in_one_transaction(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "old.db", isolation_level=None)
    prepare(db, create=True, steps=STEPS[:1])
    db.execute("INSERT INTO ductape_channel (name, purpose, owner) VALUES ('orders', 'events', '')")
    broken = (*STEPS[:1], "ALTER TABLE ductape_channel ADD COLUMN note TEXT;\nALTER TABLE nowhere ADD COLUMN x;")
    with pytest.raises(sqlite3.OperationalError):
        prepare(db, create=True, steps=broken)
    with pytest.raises(AdapterError, match="nothing may be created"):
        prepare(db, create=False, steps=broken)
    prepare(db, create=True, steps=(*STEPS[:1], "ALTER TABLE ductape_channel ADD COLUMN note TEXT;"))
    assert db.execute("SELECT name, note FROM ductape_channel").fetchall() == [("orders", None)]
    assert db.execute("SELECT value FROM ductape_meta WHERE name = 'version'").fetchall() == [(2,)]
    db.close()


async def test_eight_processes_may_open_a_new_file_at_once(world: Any) -> None:
    await asyncio.gather(*(world.connect() for _ in range(8)))
    assert world.sql("SELECT value FROM ductape_meta WHERE name = 'version'") == [(len(STEPS),)]


@pytest.mark.parametrize("content", [b"this is a text, not a database\n" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_file_that_is_none_of_sqlite_is_a_config_fault_and_is_not_touched(world: Any, content: bytes) -> None:
    world.path.write_bytes(content)
    error = await told(world.connect())
    assert error.fault is Fault.CONFIG
    assert str(world.path) in str(error)
    assert world.path.read_bytes() == content


async def test_a_damaged_file_is_a_config_fault_for_every_call(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, *(f"m{n}" * 50 for n in range(500)))
    await connection.close()
    damaged = bytearray(world.path.read_bytes())
    for page in range(2, len(damaged) // 4096):
        damaged[page * 4096 : page * 4096 + 64] = b"\xde" * 64
    world.path.write_bytes(bytes(damaged))
    error = await told(_used(world))
    assert (error.fault, "damaged" in str(error)) == (Fault.CONFIG, True)


async def _used(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "m")
    receiver = await world.receiver(connection)
    await receiver.receive(500, 0.0)


async def test_a_directory_in_place_of_a_file_is_a_config_fault(world: Any) -> None:
    world.path.mkdir()
    assert (await told(world.connect())).fault is Fault.CONFIG


def test_a_folder_that_may_not_be_written_is_a_config_fault() -> None:
    code = """
        import asyncio, logging, os, sys, time, encodings.idna
        import ductape_sqlite._connection
        from ductape.adapter import AdapterError, Site
        from ductape_sqlite import SqliteAdapter, SqliteConfig
        async def main(path):
            if os.getuid() == 0:  # everything is loaded: a folder is closed to others than root only
                os.setgid(65534); os.setuid(65534)
            site = Site(product="p", env="e", broker="b", clock=None, log=logging.getLogger())
            try:
                await SqliteAdapter().connect(SqliteConfig(path=path), site)
            except AdapterError as error:
                print(error.fault, error)
        asyncio.run(main(sys.argv[1]))
    """
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o555)
        command = [sys.executable, "-c", textwrap.dedent(code), str(folder / "events.db")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd="/")
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert "CONFIG" in ended.stdout
    assert "the file cannot be opened: look at its folder" in ended.stdout, ended.stdout + ended.stderr


# ---------------------------------------------------------------- while it is used


async def test_a_locked_file_is_waited_for_and_then_told_as_transient(world: Any) -> None:
    connection = await world.connect(busy_timeout=0.3)
    await world.send(connection, "m1")
    sender = await connection.sender(world.channel())
    other = sqlite3.connect(world.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    error = await told(sender.send([world.record("m2")]))
    assert error.fault is Fault.TRANSIENT
    assert "another process has the file locked" in str(error)
    waiting = asyncio.ensure_future(sender.send([world.record("m3")]))
    await asyncio.sleep(0.1)
    other.execute("ROLLBACK")
    other.close()
    assert await waiting == [Stored("orders@2")]
    assert world.stored() == ["m1", "m3"]


async def test_a_full_file_refuses_for_the_time_being_and_goes_on_when_there_is_room(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection, window=5000)
    confirmed: list[str] = []
    sender = await connection.sender(world.channel())
    await connection.file.read(lambda db: db.execute("PRAGMA max_page_count = 200").fetchone())
    error = None
    for turn in range(1000):
        names = [f"{turn}.{n}" for n in range(20)]
        try:
            answers = await sender.send([world.record(name) for name in names])
        except AdapterError as full:
            error = full
            break
        assert all(isinstance(one, Stored) for one in answers)
        confirmed += names
    assert error is not None
    assert (error.fault, "make room" in str(error)) == (Fault.TRANSIENT, True)
    assert world.stored() == confirmed
    await connection.check()
    await connection.file.read(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
    assert (await sender.send([world.record("last")]))[0].position
    got: list[str] = []
    while some := await receiver.receive(1000, 0.2):
        got += world.bodies(some)
        await world.ack(receiver, *some)
    assert got == [*confirmed, "last"]


def _limited(code: str, path: Path, size: int) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, preexec_fn=limit, check=False)


def test_nothing_confirmed_is_lost_when_the_system_lets_no_file_grow(world: Any) -> None:
    code = """
        import asyncio, sys
        from ductape import Ductape, PublishError
        async def main(path):
            ductape = Ductape(product="p", env="e")
            await ductape.broker.create(tag="b", envs=[{"slug": "e", "type": "SQLITE", "config": {"path": path}}])
            await ductape.broker.topic.create(tag="b:t", groups=["g"])
            number = 0
            while True:
                try:
                    await ductape.event.publish("b:t", "x" * 2000, id=str(number), timeout=1.0)
                except PublishError as error:
                    print("FAILED", error.code, number)
                    break
                print(number)
                number += 1
            await ductape.close()
        asyncio.run(main(sys.argv[1]))
    """
    ended = _limited(code, world.path, 1_500_000)
    *confirmed, last = ended.stdout.split("\n")[:-1]
    assert last.startswith("FAILED"), ended.stdout[-200:] + ended.stderr
    assert len(confirmed) > 20
    stored = world.sql("SELECT json_extract(headers, '$.ductape-id') FROM ductape_message ORDER BY id")
    assert {name for (name,) in stored} >= set(confirmed)
    assert world.sql("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_file_that_was_removed_or_replaced_is_noticed_before_anything_is_confirmed(
    world: Any, how: str
) -> None:
    connection = await world.connect()
    await world.send(connection, "m1")
    sender = await connection.sender(world.channel())
    for name in world.path.parent.iterdir():
        name.unlink()
    if how == "replaced":
        await world.connect()
    error = await told(sender.send([world.record("m2")]))
    assert (error.fault, how in str(error)) == (Fault.LOST, True)
    assert (await told(connection.check())).fault is Fault.LOST


async def test_a_client_goes_on_with_a_new_file_when_the_old_one_was_removed(tmp_path: Path) -> None:
    ductape = Ductape(product="p", env="e")
    env: Any = {"slug": "e", "type": "SQLITE", "config": {"path": str(tmp_path / "e.db")}}
    await ductape.broker.create(tag="b", envs=[env])
    await ductape.broker.topic.create(tag="b:t", groups=["g"])
    handled: asyncio.Queue[Any] = asyncio.Queue()
    async with ductape:
        await ductape.event.subscribe("b:t", callback=handled.put, group="g")
        for number in range(2):
            await ductape.event.publish("b:t", {"n": number})
            assert await asyncio.wait_for(handled.get(), 20.0) == {"n": number}
            for name in tmp_path.iterdir():
                name.unlink()


async def test_calls_that_wait_together_are_one_transaction_and_one_that_fails_fails_alone(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "m0")

    def wrong(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO ductape_channel (name, purpose, owner) VALUES ('half', 'events', '')")
        db.execute("INSERT INTO nowhere VALUES (1)")

    sender = await connection.sender(world.channel())
    answers = await asyncio.gather(
        *(sender.send([world.record(f"m{n}")]) for n in range(1, 4)),
        connection.file.write(wrong),
        sender.send([world.record("m4")]),
        return_exceptions=True,
    )
    assert isinstance(answers.pop(3), AdapterError)
    assert [one[0].position for one in answers] == ["orders@2", "orders@3", "orders@4", "orders@5"]  # type: ignore[index]
    assert world.sql("SELECT name FROM ductape_channel") == [("orders",)]


async def test_a_group_that_is_gone_is_lost_and_declared_again(world: Any) -> None:
    connection = await world.connect()
    receiver = await world.receiver(connection)
    world.sql("DELETE FROM ductape_group")
    assert (await told(receiver.receive(1, 0.0))).fault is Fault.LOST
    world.sql("DELETE FROM ductape_channel")
    assert (await told(connection.sender(world.channel()))).fault is Fault.LOST


async def test_what_may_not_be_created_is_told_by_name(world: Any) -> None:
    await world.connect()
    connection = await world.connect(create=False)
    error = await told(connection.declare(world.channel()))
    assert (error.fault, "'orders'" in str(error)) == (Fault.CONFIG, True)


def native(code: int, name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("text")
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    return error


@pytest.mark.parametrize(
    ("error", "committing", "fault"),
    [
        (native(sqlite3.SQLITE_BUSY_SNAPSHOT, "SQLITE_BUSY_SNAPSHOT"), False, Fault.TRANSIENT),
        (native(sqlite3.SQLITE_FULL, "SQLITE_FULL"), True, Fault.TRANSIENT),
        (native(sqlite3.SQLITE_IOERR_WRITE, "SQLITE_IOERR_WRITE"), False, Fault.LOST),
        (native(sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"), True, Fault.AMBIGUOUS),
        (native(sqlite3.SQLITE_READONLY, "SQLITE_READONLY"), False, Fault.CONFIG),
        (native(sqlite3.SQLITE_CORRUPT_INDEX, "SQLITE_CORRUPT_INDEX"), False, Fault.CONFIG),
        (sqlite3.ProgrammingError("Cannot operate on a closed database."), False, Fault.LOST),
        (PermissionError(13, "Permission denied"), False, Fault.CONFIG),
        (ZeroDivisionError(), False, Fault.LOST),
    ],
)
def test_errors_are_classified(error: BaseException, committing: bool, fault: Fault) -> None:
    found = fault_of(error, "/data/events.db", committing=committing)
    assert found.fault is fault
    assert str(found).count("/data/events.db") == 1
    assert fault_of(found) is found


async def test_the_kernel_tells_place_and_remedy(world: Any) -> None:
    world.path.write_text("no database at all, but long enough to be looked at" * 20)
    ductape = Ductape(product="p", env="e")
    env: Any = {"slug": "e", "type": "SQLITE", "config": {"path": str(world.path)}}
    await ductape.broker.create(tag="b", envs=[env])
    await ductape.broker.topic.create(tag="b:t")
    with pytest.raises((PublishError, OpenError), match="restore or remove it"):
        await ductape.event.publish("b:t", {})
    await ductape.close()


async def test_the_native_object_is_a_connection_of_its_own_to_the_same_file(world: Any) -> None:
    connection = await world.connect()
    await world.send(connection, "m1")
    native = connection.unwrap(sqlite3.Connection)
    assert connection.unwrap(sqlite3.Connection) is native
    assert native.execute("SELECT count(*) FROM ductape_message").fetchall() == [(1,)]
    with pytest.raises(TypeError, match="Cursor"):
        connection.unwrap(sqlite3.Cursor)
    await connection.close()
    with pytest.raises(sqlite3.ProgrammingError):
        native.execute("SELECT 1")


async def test_a_native_object_of_another_thread_is_closed_with_the_connection(world: Any) -> None:
    connection = await world.connect()
    native = await asyncio.to_thread(connection.unwrap, sqlite3.Connection)
    await connection.close()
    assert connection.file.closed
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        native.execute("SELECT 1")


def test_the_adapter_is_loaded_without_sqlite() -> None:
    code = "import sys, ductape_sqlite; sys.exit('sqlite3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


def test_a_config_has_a_file_by_default() -> None:
    assert SqliteConfig().path == "ductape.db"


async def test_nothing_is_left_behind_by_closing(world: Any) -> None:
    connection = await world.connect()
    await world.receiver(connection)
    await connection.close()
    assert [name.name for name in world.path.parent.iterdir()] == ["events.db"]
    assert world.sql("SELECT count(*) FROM ductape_listener") == [(0,)]
    assert not os.path.exists(f"{world.path}-wal")
