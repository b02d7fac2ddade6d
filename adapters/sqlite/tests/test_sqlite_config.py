"""What a config may say, and what is told of what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from ductape import Ductape, DuctapeError
from ductape.adapter import Durability
from ductape_sqlite import SqliteConfig


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"path": ""}, "path: is empty"),
        ({"path": ":memory:"}, "use the provider MEMORY"),
        ({"path": "file:events.db?mode=ro"}, "is no path of a file"),
        ({"path": "a\0b"}, "null character"),
        ({"busy_timeout": 0.0}, "busy_timeout: 0 is not between"),
        ({"busy_timeout": 60.0}, "busy_timeout: 60 is not between"),
        ({"lease": 0.1}, "lease: 0.1 is not between"),
        ({"max_length": -1}, "max_length: -1 is negative"),
        ({"max_age": -0.5}, "max_age: -0.5 is negative"),
        ({"channel": ""}, "channel: is empty"),
        ({"native": {"cache_size; DROP TABLE x": 1}}, "is no name of a pragma"),
        ({"native": {"cache_size": "1; DROP TABLE x"}}, "neither a word nor a number"),
        ({"native": {"synchronous": "off"}}, "config has a field for it"),
        ({"native": {"journal_mode": "delete"}}, "groups rely on it"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as error:
        SqliteConfig(**wrong)
    assert told in str(error.value)


async def test_a_wrong_field_is_told_with_its_place() -> None:
    ductape = Ductape(product="shop", env="dev")
    env: Any = {"slug": "dev", "type": "SQLITE", "config": {"path": "x.db", "busyTimeOut": 1}}
    await ductape.broker.create(tag="b", envs=[env])
    await ductape.broker.topic.create(tag="b:t")
    with pytest.raises(DuctapeError, match=r"(?s)CONFIG_INVALID.*busyTimeOut.*busyTimeout|CONFIG_INVALID.*busy"):
        await ductape.event.publish("b:t", {})


@pytest.mark.parametrize(
    ("synchronous", "durability"),
    [
        ("extra", Durability.STORED),
        ("full", Durability.STORED),
        ("normal", Durability.BUFFERED),
        ("off", Durability.BUFFERED),
    ],
)
async def test_what_the_disk_has_not_confirmed_is_not_called_stored(
    world: Any, synchronous: str, durability: Durability
) -> None:
    connection = await world.connect(synchronous=synchronous, lease=7.0)
    can = connection.capabilities(world.channel())
    assert (can.durability, can.lease) == (durability, 7.0)
    assert all(await world.send(connection, "m1"))


async def test_pragmas_of_native_reach_the_connection(world: Any) -> None:
    connection = await world.connect(native={"cache_size": -2048, "foreign_keys": "on"})
    asked = await connection.file.read(
        lambda db: [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("cache_size", "foreign_keys")]
    )
    assert asked == [-2048, 1]
