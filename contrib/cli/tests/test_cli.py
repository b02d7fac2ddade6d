"""The `ductape` command as a process: what it prints, its status, and what it leaves behind."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from ductape_cli._app import run as run_here
from ductape_cli._schema import manifest_schema

# Each starts processes, one after the other.
pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SECRET = "hunter2-secret"

MANIFEST = """
product = "shop"

[[broker]]
tag = "orders"

[[broker.env]]
slug = "dev"
type = "MEMORY"

[[broker.env]]
slug = "prd"
type = "REDIS"
config = {{ url = "{url}", channel = "{channel}" }}

[[topic]]
tag = "orders:new"
groups = ["billing"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ductape.toml").write_text(MANIFEST.format(url="${REDIS_URL}", channel=uuid.uuid4().hex))
    return tmp_path


def process(folder: Path, *arguments: str, **env: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "error", "-m", "ductape_cli", *arguments]
    pipe = subprocess.PIPE
    variables = {**os.environ, "NO_COLOR": "1", **env}
    return subprocess.Popen(command, cwd=folder, env=variables, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def run(folder: Path) -> Run:
    """Run a command in a folder with a manifest."""

    def call(*arguments: str, stdin: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
        started = process(folder, *arguments, **env)
        out, errors = started.communicate(stdin, timeout=40)
        return subprocess.CompletedProcess(arguments, started.returncode, out, errors)

    return call


def rows(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


# ---------------------------------------------------------------- without a broker


def test_a_catalog_is_listed(run: Run) -> None:
    [found] = rows(run("topics", "--env", "dev", "--json"))
    assert [(row["topic"], row["groups"]) for row in found] == [("orders:new", ["billing"])]
    [brokers] = rows(run("brokers", "--env", "dev", "--json"))
    assert [(row["env"], row["type"], row["config"]) for row in brokers] == [
        ("dev", "MEMORY", []),
        ("prd", "REDIS", ["channel", "url"]),
    ]
    assert "orders:new" in run("topics", "--env", "dev").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["topics"], 1, "several environments: say which with --env. There are dev, prd."),
        (["topics", "--env", "dev", "--catalog", "nothing.toml"], 1, "nothing.toml: no such file"),
        (["topics", "ordres", "--env", "dev"], 1, "Did you mean 'orders'?"),
        (["publish", "orders:new", "{", "--env", "dev"], 1, "MESSAGE is no JSON"),
        (["publish", "orders:nwe", "1", "--env", "dev"], 1, "Did you mean 'orders:new'?"),
        (["publish", "orders:new", "-", "--id", "1", "--env", "dev"], 1, "are for a single message"),
        (["publish", "orders:new", "@missing.json", "--env", "dev"], 1, "missing.json: no such file"),
        (["tail", "orders:new", "--env", "dev"], 1, "lives inside the process"),
        (["dead", "drop", "orders:new", "--env", "dev"], 1, "name the letters' ids, or all of them with --all"),
        (["run", "shop"], 1, "write it as module:name"),
        (["run", "nowhere:ductape"], 1, "there is no module 'nowhere'"),
        (["run", "json:loads_"], 1, "json has no Ductape object"),
        (["run", "json:x", "--log-level", "loud"], 1, "is not debug, info, warning or error"),
        (["new-adapter", "Bad Name"], 1, "lower case letters"),
        (["new-adapter", "acme", "--into", "."], 1, "is there already"),
        (["publish", "orders:new", "1", "--env", "dev"], 1, "lives inside the process"),
        (["tail", "orders:new", "--env", "dev", "--limit", "0"], 1, "--limit 0: it is 1 at least"),
        (["tail", "orders:new", "--env", "dev", "--seconds", "0"], 1, "--seconds 0: it is seconds, above 0"),
        (["dead", "drop", "orders:new", "", "--env", "dev"], 1, "an id is empty"),
        (["dead", "list", "orders:new", "--limit", "0", "--env", "dev"], 1, "--limit 0: it is 1 at least"),
        (["doctor", "--probe", "--env", "typo"], 1, "nothing was looked at. There are dev, prd."),
        (["check", "ductape.toml", "--env", "typo"], 1, "nothing was looked at. There are dev, prd."),
        (["run", "json:x", "--reload", "--log-level", "loud"], 1, "is not debug, info, warning or error"),
        (["new-adapter", "memory"], 1, "ductape-memory is installed already"),
        (["new-adapter", "acme", "--into", "ductape.toml/acme"], 1, "cannot be written"),
        (["nothing"], 2, 'Unknown command "nothing"'),
        (["publish"], 2, "EVENT is missing: `broker:topic`."),
        (["publish", "orders:new"], 2, "MESSAGE is missing: JSON; `-` reads standard input and `@file` a file"),
        (["dead", "show", "orders:new"], 2, "ID is missing: Its id, or a beginning that no other has."),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(logging.lastResort, "filters", [])
    assert run_here(arguments) == status  # a process for each would take most of the time
    told = capsys.readouterr()
    assert words in " ".join((told.err + told.out).split())
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--env", "prd"], "--env prd (or DUCTAPE_ENV): service:ductape is of env dev"),
        (["--product", "other"], "--product other (or DUCTAPE_PRODUCT): service:ductape is of product shop"),
        (["--catalog", "ductape.toml"], "service:ductape brings its own catalog"),
    ],
)
def test_what_is_said_beside_an_app_must_be_so(run: Run, folder: Path, option: list[str], words: str) -> None:
    (folder / "service.py").write_text(SERVICE.format(last="pass"))
    assert run("topics", "--app", "service:ductape", "--env", "dev").returncode == 0
    done = run("topics", "--app", "service:ductape", *option)
    assert done.returncode == 1
    assert words in done.stderr


def test_a_catalog_without_brokers_is_nothing_that_was_looked_at(run: Run, folder: Path) -> None:
    (folder / "ductape.toml").write_text('product = "shop"\n')
    for arguments in (["doctor", "--env", "dev"], ["check", "ductape.toml"]):
        done = run(*arguments)
        assert done.returncode == 1
        assert "nothing was looked at. No broker is declared at all." in done.stderr


def test_a_broken_catalog_is_told_by_its_store(run: Run, folder: Path) -> None:
    (folder / "ductape.toml").write_text('product = "shop\n')
    for arguments in (["topics"], ["doctor"], ["publish", "orders:new", "1"], ["check", "ductape.toml"]):
        done = run(*arguments)
        assert done.returncode == 1
        assert "error: CATALOG_INVALID: " in done.stderr
        assert "--product" not in done.stderr


def test_a_module_that_an_app_lacks_is_not_taken_for_the_app(run: Run, folder: Path) -> None:
    (folder / "shopping.py").write_text("import shop\n")
    assert "No module named 'shop'" in run("run", "shopping:ductape").stderr


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import shop", "shopping.py line 1: ModuleNotFoundError: No module named 'shop'."),
        ("x = (1 +", "shopping.py line 1: SyntaxError: "),
        ("\nraise RuntimeError('no')", "shopping.py line 2: RuntimeError: no."),
    ],
)
def test_an_app_that_cannot_be_imported_is_told_in_one_line(run: Run, folder: Path, source: str, words: str) -> None:
    (folder / "shopping.py").write_text(source + "\n")
    for arguments in (["run", "shopping:ductape"], ["topics", "--app", "shopping:ductape"]):
        done = run(*arguments)
        assert done.returncode == 1
        assert words in done.stderr
        assert 'python -c "import shopping"' in done.stderr
        assert "Traceback" not in done.stderr


def test_a_broker_that_is_away_is_told_once_with_what_to_do(run: Run) -> None:
    away = {"DUCTAPE_ENV": "prd", "REDIS_URL": "redis://127.0.0.1:1"}
    for arguments in (["tail", "orders:new"], ["dead", "list", "orders:new"]):
        done = run(*arguments, **away)
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert line.startswith("error: CONNECT_FAILED: ")
        assert line.endswith("`ductape doctor` looks closer: connection, rights, channels.")


def test_errors_are_json_where_json_is_asked_for(run: Run) -> None:
    done = run("publish", "orders:nwe", "1", "--env", "dev", "--json")
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["code"] == "TOPIC_NOT_FOUND"
    assert json.loads(run("publish", "--json").stderr)["error"]["code"] == "USAGE"


def test_check_names_what_is_wrong_in_every_environment(run: Run, folder: Path) -> None:
    done = run("check", "--json", REDIS_URL="redis://h")
    assert done.returncode == 0
    assert all(row["ok"] for row in rows(done)[0])
    text = (folder / "ductape.toml").read_text().replace('type = "MEMORY"', 'type = "MEMROY"')
    (folder / "wrong.toml").write_text(text)
    done = run("check", "wrong.toml", "--json")
    assert done.returncode == 1
    problems = {row["env"]: row["problem"] for row in rows(done)[0] if not row["ok"]}
    assert "Did you mean 'MEMORY'?" in problems["dev"]
    assert "REDIS_URL is not set" in problems["prd"]


def test_types_in_the_schema_match_in_any_case_without_flags_of_python() -> None:
    choices = manifest_schema()["properties"]["broker"]["items"]["properties"]["env"]["items"]["allOf"]
    patterns = [each["if"]["properties"]["type"]["pattern"] for each in choices]
    assert "^[Rr][Ee][Dd][Ii][Ss]$" in patterns
    assert not [pattern for pattern in patterns if "(?" in pattern]


def test_the_schema_takes_both_spellings_variables_and_hides_secrets() -> None:
    found = manifest_schema()
    config = found["$defs"]["REDIS.RedisConfig"]
    assert {"max_length", "maxLength"} <= config["properties"].keys()
    assert config["additionalProperties"] is False
    assert {"type": "string", "pattern": r"\$\{"} in config["properties"]["port"]["anyOf"]
    assert "writeOnly" in msgspec.json.encode(config["properties"]["password"]).decode()
    assert found["properties"]["topic"]["items"]["required"] == ["tag"]


def test_providers_are_listed_with_what_they_can_do(run: Run) -> None:
    [found] = rows(run("providers", "--json"))
    memory = next(row for row in found if row["type"] == "MEMORY")
    assert memory["capabilities"]["order"] == "total"
    assert memory["package"].startswith("ductape-memory ")
    assert "365 days" in run("providers").stdout


def test_a_memory_broker_is_refused_before_its_adapter_is_missed(run: Run, folder: Path) -> None:
    code = "import sys; sys.modules['ductape_memory'] = None; from ductape_cli import main; main()"
    command = [sys.executable, "-c", code, "publish", "orders:new", "1", "--env", "dev"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, "lives inside the process" in done.stderr) == (1, True)


SERVICE = """
import asyncio
from ductape import Ductape

ductape = Ductape(product="shop", env="dev", catalog="ductape.toml")


@ductape.event.subscribe("orders:new", group="billing")
async def bill(order: dict) -> None:
    print("billed", order, flush=True)
    {last}


class Starting:
    def subscriber(self, next, site):
        asyncio.get_running_loop().create_task(ductape.event.publish("orders:new", {{"n": 1}}))
        return next


ductape = Ductape(product="shop", env="dev", catalog="ductape.toml", middleware=[Starting()])
ductape.event.subscribe("orders:new", group="billing")(bill)
"""


def test_run_serves_until_a_signal(folder: Path) -> None:
    (folder / "service.py").write_text(SERVICE.format(last="pass"))
    started = process(folder, "run", "service:ductape")
    assert started.stdout is not None
    assert started.stdout.readline() == "billed {'n': 1}\n"
    started.send_signal(signal.SIGTERM)
    errors = started.communicate(timeout=20)[1]
    assert started.returncode == 0
    assert "service:ductape: product shop, env dev, 1 subscriptions" in errors
    assert "stopping in order" in errors


def test_run_reloads_in_order_when_a_file_changes(folder: Path) -> None:
    pytest.importorskip("watchfiles", reason="run --reload needs watchfiles")
    (folder / "service.py").write_text(SERVICE.format(last="pass"))
    started = process(folder, "run", "service:ductape", "--reload")
    assert started.stdout is not None
    assert started.stdout.readline() == "billed {'n': 1}\n"
    (folder / "service.py").write_text(SERVICE.format(last="pass").replace('"billed"', '"billed again"'))
    assert started.stdout.readline() == "billed again {'n': 1}\n"
    started.send_signal(signal.SIGTERM)  # where the tests run in the background, SIGINT is ignored
    assert started.communicate(timeout=40) is not None


# ---------------------------------------------------------------- on a real server


@pytest.fixture
def prd(redis_server: Any, run: Run) -> Run:
    """The same, in the environment that is on Redis."""

    def call(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return run(*arguments, **{"DUCTAPE_ENV": "prd", "REDIS_URL": redis_server.url, **env})

    return call


def test_doctor_finds_what_is_wrong_and_changes_nothing(prd: Run, redis_server: Any) -> None:
    [found] = rows(prd("doctor", "--json"))
    assert [row["result"] for row in found] == ["ok", "note"]
    assert found[1]["finding"].endswith("is missing as yet: the first publish or subscription creates it")
    assert rows(prd("doctor", "--json"))[0] == found  # it created nothing
    assert prd("publish", "orders:new", "1").returncode == 0
    [found] = rows(prd("doctor", "--json"))
    assert [row["result"] for row in found] == ["ok", "ok"]
    away = prd("doctor", REDIS_URL="redis://127.0.0.1:1")
    assert away.returncode == 1
    assert "Is the server there" in away.stdout
    probe = prd("doctor", "--probe")
    assert (probe.returncode, probe.stdout) == (0, "")


def test_doctor_takes_what_the_server_refuses_for_a_failure(prd: Run, redis_server: Any) -> None:
    with redis.Redis.from_url(redis_server.url) as server:
        server.execute_command("ACL", "SETUSER", "keyless", "on", f">{SECRET}", "resetkeys", "+@all")
        try:
            done = prd("doctor", "--json", REDIS_URL=redis_server.url.replace("redis://", f"redis://keyless:{SECRET}@"))
        finally:
            server.execute_command("ACL", "DELUSER", "keyless")
    assert done.returncode == 1
    assert [(row["result"], "NOPERM" in row["finding"]) for row in json.loads(done.stdout)] == [
        ("ok", False), ("FAILED", True),
    ]  # fmt: skip


def test_an_order_that_the_provider_never_keeps_fails_before_anything_is_there(prd: Run, folder: Path) -> None:
    with (folder / "ductape.toml").open("a") as file:
        file.write('order = "key"\n')
    text = "declared with order='key', and REDIS keeps no order: every subscription is refused"
    done = prd("check", "--json")
    assert done.returncode == 1
    assert [text in row["problem"] for row in json.loads(done.stdout) if not row["ok"]] == [True]
    done = prd("doctor", "--json")
    assert done.returncode == 1
    assert [row["finding"] for row in json.loads(done.stdout) if row["result"] == "FAILED"] == [text]


def test_a_server_s_settings_are_told_by_doctor_and_no_other_command(prd: Run, redis_server: Any) -> None:
    with redis.Redis.from_url(redis_server.url) as server:
        server.config_set("appendfsync", "everysec")
        try:
            assert prd("publish", "orders:new", "1").stderr == ""
            assert "set appendonly yes and appendfsync always" in prd("doctor").stderr
        finally:
            server.config_set("appendfsync", "always")


def test_doctor_names_a_wrong_password_and_shows_none(prd: Run, redis_server: Any) -> None:
    url = redis_server.url.replace("redis://", f"redis://nobody:{SECRET}@")
    done = prd("doctor", REDIS_URL=url)
    assert done.returncode == 1
    assert "username" in done.stdout
    assert "password" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_lines_are_published_and_a_wrong_one_is_named(prd: Run, folder: Path) -> None:
    (folder / "orders.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(2500)))
    assert rows(prd("publish", "orders:new", "@orders.jsonl", "--json")) == [{"stored": 2500, "failed": 0}]
    done = prd("publish", "orders:new", "-", stdin='{"n": 1}\n\n{"n": 2}\n{"n": \n{"n": 3}\n')
    assert done.returncode == 1
    assert done.stdout == "2 stored before it\n"
    assert "- line 4 is no JSON" in done.stderr
    (folder / "latin.jsonl").write_bytes(b'"a"\n"\xe9"\n')
    done = prd("publish", "orders:new", "@latin.jsonl")
    assert (done.returncode, done.stdout) == (1, "1 stored before it\n")
    assert "PAYLOAD_INVALID: latin.jsonl line 2 is not UTF-8" in done.stderr
    done = prd("publish", "orders:new", "-", "--whole", stdin='{\n"n": 1\n}\n')
    assert done.stdout.startswith("stored ")


def test_tail_shows_what_arrives_disturbs_nobody_and_leaves_nothing_behind(
    prd: Run, folder: Path, redis_server: Any
) -> None:
    env = {"DUCTAPE_ENV": "prd", "REDIS_URL": redis_server.url}
    assert prd("publish", "orders:new", '"before"').returncode == 0
    started = process(folder, "tail", "orders:new", "--limit", "2", "--json", **env)
    assert prd("doctor").returncode == 0  # it takes as long as tail needs to join, and more
    groups = [prd("publish", "orders:new", json.dumps({"n": n}), "--key", "k").returncode for n in range(3)]
    assert groups == [0, 0, 0]
    out, errors = started.communicate(timeout=40)
    shown = [json.loads(line) for line in out.splitlines()]
    assert (started.returncode, errors) == (0, "")
    assert len(shown) == 2
    assert all(row["key"] == "k" for row in shown)
    left = subprocess.run(
        [sys.executable, "-c", LEFT, redis_server.url, str(folder)], capture_output=True, text=True, check=True
    )
    assert left.stdout.split() == ["billing", "4"]


def test_tail_shows_what_is_no_json_and_buries_nothing(prd: Run, folder: Path, redis_server: Any) -> None:
    subprocess.run(
        [sys.executable, "-c", UNREADABLE], cwd=folder, env={**os.environ, "REDIS_URL": redis_server.url}, check=True
    )
    done = prd("tail", "orders:new", "--start", "earliest", "--limit", "3", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == ["no json", {"n": 1}, "no codec"]


UNREADABLE = """
import asyncio
from ductape import Ductape


class Yaml:
    content_type = "application/yaml"

    def encode(self, payload):
        return payload.encode()

    def decoder(self, kind):
        return bytes.decode


async def main() -> None:
    async with Ductape(product="shop", env="prd", catalog="ductape.toml") as ductape:
        await ductape.event.publish("orders:new", b"no json")
        await ductape.event.publish("orders:new", {"n": 1})
    async with Ductape(
        product="shop", env="prd", catalog="ductape.toml", codecs=[Yaml()], codec="application/yaml"
    ) as ductape:
        await ductape.event.publish("orders:new", "no codec")


asyncio.run(main())
"""

LEFT = textwrap.dedent("""
    import pathlib, re, sys
    import redis
    channel = re.search('channel = "([^"]+)"', pathlib.Path(sys.argv[2], "ductape.toml").read_text())[1]
    server = redis.Redis.from_url(sys.argv[1])
    for group in server.xinfo_groups(channel):
        print(group["name"].decode(), group["lag"])
    assert not [key for key in server.scan_iter(f"*{channel}*") if b"tail" in key]
""")

FAILING = """
import asyncio
from ductape import Ductape, Reject


async def main() -> None:
    async with Ductape(product="shop", env="prd", catalog="ductape.toml") as ductape:
        left = asyncio.Semaphore(0)

        async def fail(order: dict) -> None:
            left.release()
            raise Reject(f"no customer {order['n']}")

        await ductape.event.publish_many("orders:new", [{"n": n} for n in range(3)])
        await ductape.event.subscribe("orders:new", callback=fail, group="billing")
        for _ in range(3):
            await left.acquire()


asyncio.run(main())
"""


def test_dead_letters_are_listed_shown_replayed_and_dropped(prd: Run, folder: Path, redis_server: Any) -> None:
    env = {**os.environ, "REDIS_URL": redis_server.url}
    subprocess.run([sys.executable, "-c", FAILING], cwd=folder, env=env, check=True)
    letter = ["--group", "billing"]
    [found] = rows(prd("dead", "list", "orders:new", *letter, "--json"))
    assert [row["error"] for row in found] == [f"Reject: no customer {n}" for n in range(3)]
    [shown] = rows(prd("dead", "show", "orders:new", found[1]["id"], *letter, "--json"))
    assert (shown["message"], shown["reason"], shown["attempts"]) == ({"n": 1}, "rejected", 1)
    assert "no customer 1" in prd("dead", "show", "orders:new", found[1]["id"], *letter).stdout
    assert prd("dead", "drop", "orders:new", found[0]["id"], *letter).stdout == f"dropped {found[0]['id']}\n"
    assert prd("dead", "replay", "orders:new", found[1]["id"], *letter).stdout == f"replayed {found[1]['id']}\n"
    [left] = rows(prd("dead", "list", "orders:new", *letter, "--json"))
    assert [row["id"] for row in left] == [found[2]["id"]]
    for action in ("show", "drop", "replay"):
        missing = prd("dead", action, "orders:new", "nothing", *letter, "--json")
        assert (missing.returncode, missing.stdout) == (1, "")
        assert json.loads(missing.stderr)["error"]["code"] == "DEAD_LETTER_NOT_FOUND"
    assert prd("dead", "drop", "orders:new", "--all", *letter).returncode == 0
    assert "no dead letters" in prd("dead", "list", "orders:new", *letter).stderr


def test_a_beginning_of_several_ids_acts_on_none_and_all_is_all(prd: Run, folder: Path, redis_server: Any) -> None:
    env = {**os.environ, "REDIS_URL": redis_server.url}
    subprocess.run([sys.executable, "-c", FAILING], cwd=folder, env=env, check=True)
    letter = ["--group", "billing"]
    [found] = rows(prd("dead", "list", "orders:new", *letter, "--json"))
    ids = [row["id"] for row in found]
    assert len({id[:16] for id in ids}) == 1  # one publisher's
    for action in ("show", "replay", "drop"):
        done = prd("dead", action, "orders:new", ids[0][:16], *letter)
        assert (done.returncode, done.stdout) == (1, "")
        assert all(id in done.stderr for id in ids)
    [left] = rows(prd("dead", "list", "orders:new", *letter, "--json"))
    assert {row["id"] for row in left} == set(ids)
    some = prd("dead", "list", "orders:new", *letter, "--limit", "2")
    assert "there are more than these 2" in some.stderr
    assert sum(id in some.stdout for id in ids) == 2
    done = prd("dead", "drop", "orders:new", "--all", *letter)
    assert sorted(done.stdout.splitlines()) == [f"dropped {id}" for id in sorted(ids)]


def test_all_is_all_one_letter_at_a_time(prd: Run, folder: Path, redis_server: Any) -> None:
    env = {**os.environ, "REDIS_URL": redis_server.url}
    subprocess.run([sys.executable, "-c", FAILING], cwd=folder, env=env, check=True)
    letter = ["--group", "billing"]
    done = prd("dead", "drop", "orders:new", "--all", "--limit", "1", *letter)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
    assert "no dead letters" in prd("dead", "list", "orders:new", *letter).stderr


CONSUMING = """
from ductape import Ductape

class Watched:
    def subscriber(self, next, site):
        print("subscribed to", site.event, flush=True)
        return next


ductape = Ductape(product="shop", env="prd", catalog="ductape.toml", middleware=[Watched()])


@ductape.event.subscribe("orders:new", group="billing")
async def bill(order: dict) -> None:
    print("billed", flush=True)
"""


def test_a_command_for_an_app_serves_none_of_its_subscriptions(prd: Run, folder: Path, redis_server: Any) -> None:
    (folder / "service.py").write_text(CONSUMING)
    app = ["--app", "service:ductape"]
    assert prd("publish", "orders:new", "1", *app).stdout.startswith("stored ")
    assert prd("publish", "orders:new", "-", *app, stdin="2\n3\n").stdout == "2 stored\n"
    done = prd("tail", "orders:new", "--start", "earliest", "--limit", "3", "--json", *app)
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == [1, 2, 3]
    assert prd("dead", "list", "orders:new", *app).stdout == ""
    left = subprocess.run(
        [sys.executable, "-c", LEFT, redis_server.url, str(folder)], capture_output=True, text=True, check=True
    )
    assert left.stdout.split() == ["billing", "3"]


@pytest.mark.parametrize("action", [["list"], ["replay", "--all"], ["show", "some"]])
def test_to_ask_for_a_group_s_dead_letters_makes_no_place_for_them(
    prd: Run, redis_server: Any, folder: Path, action: list[str]
) -> None:
    assert prd("publish", "orders:new", "1").returncode == 0
    name, *options = action
    done = prd("dead", name, "orders:new", *options, "--group", "typo")
    told = [line for line in done.stderr.splitlines() if line.startswith("no dead letters")]
    assert (told, done.stdout) == (["no dead letters of group typo. The topic declares billing."], "")
    code = LEFT.replace('b"tail"', 'b"typo"')
    left = subprocess.run(
        [sys.executable, "-c", code, redis_server.url, str(folder)], capture_output=True, text=True, check=True
    )
    assert left.stdout.split() == ["billing", "1"]
