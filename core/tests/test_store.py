"""Where catalogs are kept: in memory, in a JSON store that several processes write, in manifests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ductape._definitions import make_broker, make_topic
from ductape._secrets import Secret
from ductape._store import Contents, Edit, FileStore, MemoryStore, Store, locked, open_store, write_whole
from ductape.errors import CatalogError

MANIFEST = """
product = "shop"

[[broker]]
tag = "order-events"
name = "Order Events"

[[broker.env]]
slug = "prd"
type = "kafka"
[broker.env.config]
brokers = ["k:9092"]
clientId = "${CLIENT}"

[[broker.env]]
slug = "dev"
type = "REDIS"
create = false

[[topic]]
tag = "order-events:new-orders"
sample = { orderId = "1" }
queue_url = [{ env_slug = "prd", url = "https://q" }]
"""
AS_JSON = {
    "brokers": [
        {
            "tag": "order-events",
            "name": "Order Events",
            "envs": [
                {"slug": "prd", "type": "KAFKA", "config": {"brokers": ["k:9092"], "client_id": "${CLIENT}"}},
                {"slug": "dev", "type": "REDIS", "create": False},
            ],
        }
    ],
    "topics": [{"tag": "new-orders", "messageBrokerTag": "order-events", "queueUrl": {"prd": "https://q"}}],
}


def declare(tag: str, **fields: Any) -> Edit:
    def edit(contents: Contents) -> Contents:
        broker = make_broker({"tag": tag, **fields}, product="shop")
        return Contents({**contents.brokers, tag: broker}, contents.topics)

    return edit


def unchanged(contents: Contents) -> Contents:
    return contents


async def refusal(store: Store, edit: Edit | None = None) -> CatalogError:
    with pytest.raises(CatalogError) as caught:
        await (store.change("shop", edit) if edit else store.read("shop"))
    return caught.value


class TestChoosing:
    def test_nothing_is_memory_and_a_store_is_itself(self, tmp_path: Path) -> None:
        store = MemoryStore()
        assert isinstance(open_store(None), MemoryStore)
        assert open_store(store) is store
        assert repr(open_store(tmp_path / "a.toml")) == f"<FileStore {tmp_path / 'a.toml'}>"

    @pytest.mark.parametrize("wrong", ["catalog.ini", "catalog", 3])
    def test_anything_else_is_refused(self, wrong: Any) -> None:
        with pytest.raises(CatalogError, match="CATALOG_INVALID"):
            open_store(wrong)


class TestEveryStore:
    @pytest.fixture(params=["memory", "json"])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "catalog.json")

    async def test_it_begins_empty_and_keeps_products_apart(self, store: Store) -> None:
        assert await store.read("shop") == Contents()
        await store.change("shop", declare("a"))
        assert list((await store.read("shop")).brokers) == ["a"]
        assert await store.read("other") == Contents()

    async def test_an_edit_that_raises_changes_nothing(self, store: Store) -> None:
        def fail(contents: Contents) -> Contents:
            raise KeyError

        await store.change("shop", declare("a"))
        with pytest.raises(KeyError):
            await store.change("shop", fail)
        assert list((await store.read("shop")).brokers) == ["a"]


class TestJsonStore:
    async def test_everything_comes_back(self, tmp_path: Path) -> None:
        path = tmp_path / "catalog.json"
        broker = make_broker(
            {"tag": "b", "name": "n", "envs": [{"slug": "dev", "type": "NATS", "config": {"aB": [1, {"c": None}]}}]},
            product="shop",
        )
        fields = {"tag": "b:t", "sample": [1.5], "order": "key", "groups": ["g"], "options": {"x": True}}
        topic = make_topic({**fields, "queue_url": {"dev": "u"}, "type": dict}, product="shop")
        await FileStore(path).change("shop", lambda _: Contents({"b": broker}, {"b:t": topic}))
        read = await FileStore(path).read("shop")
        assert read.brokers == {"b": broker}
        assert read.topics == {"b:t": make_topic({**fields, "queue_url": {"dev": "u"}}, product="shop")}

    async def test_it_keeps_references_and_is_its_owners_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "catalog.json"
        config = {"password": "${P:-x}", "dollar": "$$"}
        await FileStore(path).change("shop", declare("a", envs=[{"slug": "d", "type": "X", "config": config}]))
        assert json.loads(path.read_text())["products"]["shop"]["broker"][0]["env"][0]["config"] == config
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o664)
        await FileStore(path).change("shop", declare("b"))
        assert path.stat().st_mode & 0o777 == 0o664

    async def test_it_writes_only_what_changed(self, tmp_path: Path) -> None:
        path = tmp_path / "catalog.json"
        store = FileStore(path)
        await store.change("shop", unchanged)
        assert not path.exists()
        await store.change("shop", declare("a"))
        before = path.stat()
        await store.change("shop", unchanged)
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        assert path.stat().st_ino == before.st_ino

    async def test_what_another_wrote_is_seen(self, tmp_path: Path) -> None:
        one, two = FileStore(tmp_path / "catalog.json"), FileStore(tmp_path / "catalog.json")
        for n in range(5):
            await one.change("shop", declare(f"one-{n}"))
            await two.change("shop", declare(f"two-{n}"))
            assert len((await one.read("shop")).brokers) == len((await two.read("shop")).brokers) == 2 * n + 2

    async def test_a_secret_is_not_written(self, tmp_path: Path) -> None:
        edit = declare("a", envs=[{"slug": "d", "type": "X", "config": {"password": Secret("hunter2")}}])
        error = await refusal(FileStore(tmp_path / "catalog.json"), edit)
        assert "'a' holds a Secret" in str(error)
        assert "hunter2" not in str(error)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["catalog.json.lock"]

    async def test_two_processes_and_their_tasks_lose_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "catalog.json"
        code = textwrap.dedent("""
            import asyncio, sys
            from ductape._catalog import BrokerDoor, Catalog
            from ductape._store import FileStore

            async def main(path, name):
                doors = [BrokerDoor(Catalog("shop", FileStore(path)), publish=None, subscribe=None) for _ in range(4)]
                await asyncio.gather(*(doors[n % 4].create(tag=f"{name}-{n}") for n in range(25)))

            asyncio.run(main(*sys.argv[1:]))
        """)
        writers = [
            subprocess.Popen([sys.executable, "-c", code, str(path), name], stderr=subprocess.PIPE) for name in "ab"
        ]
        reads = 0
        while any(writer.poll() is None for writer in writers):
            await FileStore(path).read("shop")  # never half a file
            reads += 1
        for writer in writers:
            _, told = writer.communicate(timeout=30)
            assert (writer.returncode, told) == (0, b"")
        assert set((await FileStore(path).read("shop")).brokers) == {f"{name}-{n}" for name in "ab" for n in range(25)}
        assert reads
        assert sorted(each.name for each in tmp_path.iterdir()) == ["catalog.json", "catalog.json.lock"]

    async def test_a_link_stays_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
        await FileStore(tmp_path / "link.json").change("shop", declare("a"))
        assert (tmp_path / "link.json").is_symlink()
        # One lock for both names.
        assert sorted(each.name for each in tmp_path.iterdir()) == ["link.json", "real.json", "real.json.lock"]

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("{", "JSON is malformed|truncated"),
            ("[]", "expected a mapping, got a list"),
            ('{"products": {"shop": {"broker": [{"tag": 3}]}}}', r"broker 3, tag: expected a string, got an integer"),
            ('{"version": 2, "products": {}}', "version: 2 is not one of 1"),
            ('{"brokrs": []}', "unknown key 'brokrs'"),
        ],
    )
    async def test_a_damaged_one_is_named(self, tmp_path: Path, content: str, told: str) -> None:
        path = tmp_path / "catalog.json"
        path.write_text(content)
        for edit in (None, declare("a")):
            error = await refusal(FileStore(path), edit)
            assert error.code == "CATALOG_INVALID"
            assert str(path) in str(error)
            assert re.search(told, str(error))
        assert path.read_text() == content

    async def test_a_folder_that_is_missing_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "none" / "catalog.json"
        assert "No such file" in str(await refusal(FileStore(path), declare("a")))


class TestManifest:
    @pytest.fixture(params=["toml", "json", "yaml"])
    def path(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        path = tmp_path / f"ductape.{request.param}"
        if request.param == "yaml":
            pytest.importorskip("yaml")
        path.write_text(MANIFEST if request.param == "toml" else json.dumps(AS_JSON))
        return path

    async def test_it_is_read_in_every_format(self, path: Path) -> None:
        contents = await FileStore(path).read("shop")
        broker = contents.brokers["order-events"]
        assert [(env.slug, env.type, env.create) for env in broker.envs] == [
            ("prd", "KAFKA", True), ("dev", "REDIS", False),
        ]  # fmt: skip
        assert "${CLIENT}" in broker.env("prd").config.values()
        assert contents.topics["order-events:new-orders"].queue_url == {"prd": "https://q"}

    async def test_it_is_never_rewritten(self, path: Path) -> None:
        before = path.read_bytes()
        store = FileStore(path)
        assert await store.change("shop", unchanged) == await store.read("shop")
        error = await refusal(store, declare("other"))
        assert str(error) == (
            f"CATALOG_READ_ONLY: {path} is a manifest, which ductape never rewrites. Edit it, or keep a .json catalog."
        )
        assert path.read_bytes() == before
        assert len(list(path.parent.iterdir())) == 1

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ('slug = "prd"', "slug = 1", "CATALOG_INVALID: {path}, broker 'order-events', env[0].slug: expected a str"),
            ('[[topic]]\ntag = "order-events:', '[[topic]]\ntag = "other:', "BROKER_NOT_FOUND: {path}, topic 'other"),
            ("[[topic]]", '[[broker]]\ntag = "order-events"\n[[topic]]', "BROKER_EXISTS: {path} declares 'order-ev"),
            ("[[topic]]", '[[topic]]\ntag = "order-events:new-orders"\n[[topic]]', "TOPIC_EXISTS: {path} declares"),
            ('tag = "order-events"', 'tag = "a b"', "TAG_INVALID: {path}, broker 'a b'"),
            ("[[topic]]", "[[topics]", "CATALOG_INVALID: {path}: "),
            ("[[topic]]", "[[tropic]]", "CATALOG_INVALID: {path}: unknown key 'tropic'. Did you mean 'topic'?"),
            ('product = "shop"', 'product = "store"', "PRODUCT_NOT_FOUND: no product 'shop' in {path}: it declares 's"),
        ],
        ids=["type", "foreign topic", "two brokers", "two topics", "tag", "syntax", "key", "product"],
    )
    async def test_mistakes_name_the_file_and_the_path(self, tmp_path: Path, old: str, new: str, told: str) -> None:
        path = tmp_path / "ductape.toml"
        path.write_text(MANIFEST.replace(old, new, 1))
        assert str(await refusal(FileStore(path))).startswith(told.format(path=path))

    async def test_one_that_is_missing_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "ductape.toml"
        assert str(await refusal(FileStore(path))) == f"CATALOG_INVALID: {path}: No such file or directory."

    async def test_bytes_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        for name in ("a.toml", "a.json"):
            (tmp_path / name).write_bytes(b'{"a": "\xff"}')
            assert (await refusal(FileStore(tmp_path / name))).code == "CATALOG_INVALID"

    async def test_all_mistakes_are_told_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "ductape.toml"
        text = MANIFEST.replace('slug = "prd"', "slug = 1", 1).replace("[[topic]]", '[[topic]]\nordr = "key"', 1)
        path.write_text(f'{text}\n[[topic]]\ntag = "other:new"\n')
        error = await refusal(FileStore(path))
        first, *told = str(error).splitlines()
        assert first == f"CATALOG_INVALID: {path} has 3 faults:"
        assert told[0].startswith("1. broker 'order-events', env[0].slug: expected a string")
        assert told[1].endswith("unknown key 'ordr'. Did you mean 'order'?")
        assert told[2] == "3. topic 'other:new': there is no broker 'other'."

    async def test_malformed_json_is_told_with_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "ductape.json"
        path.write_text('{"broker": [],\n "topic": [}')
        assert str(await refusal(FileStore(path))).endswith("(byte 26, line 2).")

    async def test_malformed_yaml_is_not_quoted(self, tmp_path: Path) -> None:
        pytest.importorskip("yaml")
        path = tmp_path / "a.yml"
        path.write_text("broker:\n  - password: hunter2: [\n")
        assert str(await refusal(FileStore(path))) == f"CATALOG_INVALID: {path}: malformed YAML (line 2)."

    @pytest.mark.skipif(find_spec("yaml") is not None, reason="PyYAML is here")
    async def test_yaml_without_its_library_says_what_to_install(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("a: 1")
        assert "pip install pyyaml" in str(await refusal(FileStore(tmp_path / "a.yaml")))


class TestLockAndFile:
    def test_a_lock_that_is_held_is_waited_for_and_not_for_ever(self, tmp_path: Path) -> None:
        path = str(tmp_path / "lock")
        with locked(path, 1):
            began = time.monotonic()
            with pytest.raises(CatalogError, match="held by another process"), locked(path, 0.1):
                pass
            assert 0.1 <= time.monotonic() - began < 1
        with locked(path, 0):
            pass

    async def test_it_does_not_block_the_loop(self, tmp_path: Path) -> None:
        store = FileStore(tmp_path / "catalog.json")
        with locked(store.path + ".lock", 1):
            change = asyncio.create_task(store.change("shop", declare("a")))
            await asyncio.sleep(0.05)
            assert not change.done()
        assert list((await change).brokers) == ["a"]

    def test_a_write_that_fails_leaves_the_old_file_and_no_draft(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        path.write_text("old")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_whole(str(path), b"new")
        assert [each.name for each in tmp_path.iterdir()] == ["file"]
        assert path.read_text() == "old"


def test_any_object_with_two_methods_is_a_store() -> None:
    class Own:
        async def read(self, product: str) -> Contents:
            return Contents()

        async def change(self, product: str, edit: Callable[[Contents], Contents]) -> Contents:
            return edit(Contents())

    own = Own()
    assert open_store(own) is own
