"""README, documentation and examples are tried: every Python block runs, every quoted output is compared.

Blocks of one page share names and one event loop; a bare ``await`` is allowed, as in ``python -m asyncio``. A block
with a title is also written to a file of that name; one whose file is in a folder is there to be imported, and not run,
and neither is one that reads its arguments. A ``text`` block right after a Python block is what it prints, and right
after a ``sh`` block what its commands print: those that run a file of the page, and ``ductape``. ``…`` stands for
anything within a line, or, alone on a line, for any number of lines. ``REDIS_URL`` is the address of a server.

``python -m tests.test_docs`` writes the generated tables anew.
"""

import ast
import asyncio
import contextlib
import functools
import importlib
import inspect
import io
import itertools
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import msgspec
import pytest

import benchmarks.page
import ductape
import ductape.adapter
import ductape.errors
import ductape.sync
import ductape.types
from ductape._headers import HEADERS
from ductape._options import SubscribeOptions
from ductape.adapter import Capabilities
from ductape_cli._adapters import filled
from tests.test_layers import FLOORS
from tests.test_template import MODULES, TEMPLATE

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "core" / "README.md", *sorted(DOCS.rglob("*.md"))]
PROSE = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FENCE = re.compile(r"^```(?P<lang>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LOCAL_REDIS = '"host": "localhost", "port": 6379'
AWAIT_LINE = "Blocks with a bare `await`"


class Block(NamedTuple):
    """One fenced block of a page."""

    lang: str
    title: str
    code: str
    line: int
    adjacent: bool
    """Nothing but blank lines stands between it and the block before."""


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        adjacent = bool(found) and not text[end : match.start()].strip()
        found.append(Block(match["lang"], match["title"] or "", match["code"], line, adjacent))
        end = match.end()
    return found


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def server_of(page: Path) -> str:
    """The server whose address a page reads from the environment (``REDIS_URL``: redis); empty: it needs none."""
    code = "".join(block.code for block in blocks(page))
    found = re.search(r"\b([A-Z]+)_(?:URL|EMULATOR_HOST)\b", code)
    return "redis" if LOCAL_REDIS in code else found[1].lower() if found else ""


def pages_on(server: str) -> list[Path]:
    return [page for page in PAGES if server_of(page) == server]


# ---------------------------------------------------------------- running a page


class Page:
    """Runs the blocks of one page, in order."""

    def __init__(self, page: Path, replaced: dict[str, str]) -> None:
        self.page, self.replaced = page, replaced
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self) -> None:
        with asyncio.Runner() as runner:
            try:
                printed = ""
                page = blocks(self.page)
                for block, after in itertools.zip_longest(page, page[1:]):
                    if block.title:
                        Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                        Path(block.title).write_text(self.here(block.code))
                    if "/" in block.title or "sys.argv" in block.code:
                        importlib.invalidate_caches()
                        continue
                    if block.lang == "python":
                        printed = self.block(block, runner)
                    elif block.lang == "sh" and after and after.adjacent and after.lang == "text":
                        printed = self.commands(block.code, lines=after.code.count("\n"))
                    elif block.lang == "text" and block.adjacent:
                        self.compare(block, printed)
            finally:
                for each in list(self.names.values()):
                    if isinstance(each, ductape.Ductape):
                        runner.run(each.close())
                    elif isinstance(each, ductape.sync.Ductape):
                        each.close()

    def block(self, block: Block, runner: asyncio.Runner) -> str:
        code = self.here(block.code)
        # Blank lines in front, so that a traceback names the line of the page.
        compiled = compiled_block("\n" * block.line + code, str(self.page))
        with contextlib.redirect_stdout(io.StringIO()) as out:
            if compiled.co_flags & inspect.CO_COROUTINE:
                coroutine = eval(compiled, self.names)
                with interrupted(".serve()" in code):
                    runner.run(coroutine)
            else:
                with interrupted(".run()" in code and "asyncio.run" not in code):
                    exec(compiled, self.names)
        return out.getvalue()

    def commands(self, code: str, lines: int) -> str:
        """Run a block's commands, and end the one that still runs when all is printed that is shown."""
        out = ""
        for command in self.here(code).replace("\\\n", "").splitlines():
            words = shlex.split(command)
            env = dict(word.split("=", 1) for word in itertools.takewhile(lambda word: "=" in word, words))
            match words[len(env) :]:
                case ["python", file, *rest] if Path(file).exists():
                    out += shown([file, *rest], lines, env)
                case ["ductape", *rest]:
                    out += shown(["-m", "ductape_cli", *rest], lines, env)
                case ["pip", *_]:
                    pass
                case other:
                    raise AssertionError(f"{name_of(self.page)}: {other} is not run, and its output is shown")
        return out

    def here(self, text: str) -> str:
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        return text

    def compare(self, block: Block, printed: str) -> None:
        lines = [
            re.escape(line).replace("…", "[^\n]*") if line != "…" else "(?:[^\n]*\n)*?[^\n]*"
            for line in self.here(block.code).splitlines()
        ]
        wanted = "\n".join(lines)
        assert re.fullmatch(wanted, printed.rstrip("\n")), f"{name_of(self.page)}:{block.line}\nprinted:\n{printed}"


def compiled_block(code: str, name: str) -> CodeType:
    compiled: CodeType = compile(code, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return compiled


def shown(arguments: list[str], lines: int, env: dict[str, str]) -> str:
    """What a program prints, which serves until a signal or ends by itself."""
    command = [sys.executable, "-W", "error", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}) as process:
        assert process.stdout is not None
        try:
            out = "".join(process.stdout.readline() for _ in range(lines))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            if process.poll() is None:
                process.terminate()
            out += process.stdout.read()
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, f"{arguments}: {process.returncode}\n{out}"
    return out


@contextlib.contextmanager
def interrupted(wanted: bool) -> Iterator[None]:
    """Gives a block that serves until a signal one, when it listens."""
    done = threading.Event()

    def interrupt() -> None:
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            if done.wait(0.01):
                return
        if not done.wait(0.3):
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if wanted:
            thread.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, from which a page's files can be imported, those in `src` and `tests` too."""
    monkeypatch.chdir(tmp_path)
    for each in (tmp_path, tmp_path / "src", tmp_path / "tests"):
        each.mkdir(exist_ok=True)
        monkeypatch.syspath_prepend(each)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    monkeypatch.delenv("APP_ENV", raising=False)
    return tmp_path


@pytest.mark.parametrize("page", pages_on(""), ids=name_of)
def test_page_runs(page: Path, folder: Path) -> None:
    Page(page, {}).run()


@pytest.mark.parametrize("page", pages_on("redis"), ids=name_of)
def test_page_runs_on_redis(page: Path, folder: Path, redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    # Another page, or another run on a server that is not ours, may have left events of this name.
    own = {"order-events": f"order-events-{secrets.token_hex(4)}"}
    Page(page, own | {LOCAL_REDIS: f'"host": "{redis_server.host}", "port": {redis_server.port}'}).run()


@pytest.mark.parametrize("page", pages_on("sqs"), ids=name_of)
def test_page_runs_on_sqs(page: Path, folder: Path, sqs_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQS_URL", sqs_server.url)
    # A server that is not ours may have queues of these names.
    own = f"parcels-{secrets.token_hex(4)}"
    Page(page, {"parcels": own}).run()


@pytest.mark.parametrize("page", pages_on("nats"), ids=name_of)
def test_page_runs_on_nats(page: Path, folder: Path, nats_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    Page(page, {}).run()


@pytest.mark.parametrize("page", pages_on("rabbitmq"), ids=name_of)
def test_page_runs_on_rabbitmq(page: Path, folder: Path, rabbitmq_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", rabbitmq_server.url)
    Page(page, {}).run()


@pytest.mark.parametrize("page", pages_on("pubsub"), ids=name_of)
def test_page_runs_on_pubsub(page: Path, folder: Path, pubsub_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server.url)
    Page(page, {}).run()


@pytest.mark.parametrize("page", pages_on("kafka"), ids=name_of)
def test_page_runs_on_kafka(page: Path, folder: Path, kafka_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_URL", kafka_server.url)
    # Another run on a server that is not ours may have left events of this name.
    Page(page, {"cargo": f"cargo-{secrets.token_hex(4)}"}).run()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_bare_await_is_explained(page: Path) -> None:
    code = [block.code for block in blocks(page) if block.lang == "python"]
    bare = any(compiled_block(each, name_of(page)).co_flags & inspect.CO_COROUTINE for each in code)
    assert bare == (AWAIT_LINE in page.read_text())


# ---------------------------------------------------------------- examples


def start(*arguments: str, **env: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "error", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env={**os.environ, **env})


def finished(process: "subprocess.Popen[str]", *warnings: str) -> str:
    out, errors = process.communicate(timeout=30)
    # A server that is not ours may be set to lose its last moment; ductape says so, and says it once for a channel.
    told = [line for line in errors.splitlines() if " killed" not in line]
    unexpected = [line for line in told if not any(warning in line for warning in warnings)]
    assert (process.returncode, unexpected) == (0, [])
    assert [warning for warning in warnings if not any(warning in line for line in told)] == []
    return out


def demo_rows(out: str) -> list[str]:
    """The last table: a line for each environment."""
    return [line for line in out.splitlines() if re.match(r"  (dev|prd)  ", line)]


def test_demo() -> None:
    begin = time.monotonic()
    out = finished(start("examples/demo.py", DUCTAPE_DEMO_REDIS=""))
    assert time.monotonic() - begin < 25
    assert "\x1b" not in out
    assert out.count("A-3  exhausted after 3: LookupError: no customer 'eve'") == 2
    assert out.count("replayed to billing alone") == 2
    assert [line.split()[-6:] for line in demo_rows(out)] == [
        ["4", "4", "4", "1", "1", "buffered"],
        ["4", "4", "4", "1", "1", "stored"],
    ]


def test_two_terminals(tmp_path: Path) -> None:
    path = str(tmp_path / "shop.db")
    assert finished(start("examples/terminals.py", "publish", path)).startswith("publish: stored at")
    consumer = start("examples/terminals.py", "consume", path)
    assert consumer.stdout is not None
    lines = [consumer.stdout.readline() for _ in range(2)]
    assert sorted(line.split(" ")[1] for line in lines) == ["12345", "waiting"]
    consumer.terminate()
    assert finished(consumer) == ""


def test_demo_on_redis(redis_server: Any) -> None:
    out = finished(start("examples/demo.py", DUCTAPE_DEMO_REDIS=redis_server.url))
    assert demo_rows(out)[-1].split()[:7] == ["prd", "REDIS", "4", "4", "4", "1", "1"]


def serve(*arguments: str, until: str, **env: str) -> str:
    process = start(*arguments, **env)
    assert process.stdout is not None
    seen = ""
    while until not in seen:
        line = process.stdout.readline()
        assert line, f"it ended: {seen}\n{process.communicate()[1]}"
        seen += line
    time.sleep(0.3)  # it may have answered before it served
    process.send_signal(signal.SIGTERM)
    return seen + finished(process)


def test_the_missions_page_on_memory() -> None:
    assert "Updated description; 1 topic" in serve("examples/mission.py", "local", until="{'orderId': '12345'}")


def test_the_missions_page_on_redis(redis_server: Any) -> None:
    env = {"REDIS_HOST": redis_server.host, "REDIS_PORT": str(redis_server.port)}
    assert "Updated description; 1 topic" in serve("examples/mission.py", until="{'orderId': '12345'}", **env)


FAILURES = ("failed: ConnectionError at service.py:", "(rejected): Reject at service.py:")
"""What the service's log has to say of the handler that raises."""


def test_the_service_on_memory() -> None:
    out = finished(start("examples/service.py"), *FAILURES)
    assert out.count("attempt 3") == 2
    assert out.endswith("all handled\n")


def test_the_service_on_redis(redis_server: Any) -> None:
    out = finished(start("examples/service.py", APP_ENV="prd", REDIS_URL=redis_server.url), *FAILURES)
    assert out.count("attempt 3") == 2
    assert out.endswith("all handled\n")


# ---------------------------------------------------------------- what is said is there


@pytest.mark.parametrize("page", PROSE, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PROSE, ids=name_of)
def test_sessions_that_are_named_are_there(page: Path) -> None:
    sessions = set(re.findall(r"^def (\w+)\(session: nox\.Session\)", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    named = re.findall(r"nox -s ((?:[a-z]+ ?)+)", page.read_text())
    assert {word for words in named for word in words.split()} <= sessions


def test_the_readme_has_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "python -m pip install nox && nox -s demo\n" in text
    assert "python -m pip install nox && nox -s tests\n" in text


def test_every_page_is_in_the_navigation() -> None:
    nav = set(re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert nav == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


# ---------------------------------------------------------------- public names

DOORS = (ductape, ductape.adapter, ductape.errors, ductape.types, ductape.sync)


@functools.cache
def assigned_docs(source: str) -> set[str]:
    """Names at the top of a module whose assignment is followed by a docstring."""
    body = ast.parse(source).body
    found = set()
    for node, after in itertools.pairwise(body):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def undocumented(module: Any) -> Iterator[str]:
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value):
            if not vars(value).get("__doc__"):
                yield name
            for member, what in vars(value).items():
                what = getattr(what, "__func__", what)
                plain = inspect.isfunction(what) or isinstance(what, property)
                if plain and not member.startswith("_") and not inspect.getdoc(getattr(value, member)):
                    yield f"{name}.{member}"
        elif inspect.isfunction(value):
            if not value.__doc__:
                yield name
        else:
            sources = [inspect.getsource(module)]
            sources += [
                inspect.getsource(importlib.import_module(f"ductape.{node.module}"))
                for node in ast.walk(ast.parse(sources[0]))
                if isinstance(node, ast.ImportFrom) and node.module and name in {each.name for each in node.names}
            ]
            if not any(name in assigned_docs(source) for source in sources):
                yield name


@pytest.mark.parametrize("module", DOORS, ids=lambda module: str(module.__name__))
def test_every_public_name_has_a_docstring(module: Any) -> None:
    assert list(undocumented(module)) == []


@pytest.mark.parametrize("module", DOORS, ids=lambda module: str(module.__name__))
def test_every_public_name_is_in_the_reference(module: Any) -> None:
    text = "\n".join(page.read_text() for page in (DOCS / "reference").rglob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    missing = [
        name
        for name in module.__all__
        if f"{module.__name__}.{name}" not in shown
        and not ("ductape.errors" in shown and getattr(module, name) is getattr(ductape.errors, name, None))
    ]
    assert missing == [] or module.__name__ in shown & {"ductape.errors", "ductape.types"}


# ---------------------------------------------------------------- generated tables


def row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |\n"


def head(*cells: str) -> str:
    return row(*cells) + "|" + "---|" * len(cells) + "\n"


def header_table() -> str:
    rows = (row(f"`{each.name}`", each.meaning, each.type, f"`{each.example}`") for each in HEADERS)
    return head("header", "meaning", "type", "example") + "".join(rows)


def option_table() -> str:
    """Defaults of a subscription's options; what they mean stands in MEANINGS."""
    rows = ""
    for field in msgspec.structs.fields(SubscribeOptions):
        default = "`Retry()`" if field.name == "retry" else f"`{field.default!r}`" if field.default is not None else ""
        rows += row(f"`{field.name}`", default, MEANINGS[field.name])
    return head("option", "default", "") + rows


MEANINGS = {
    "group": "whose share of the work this is; unset: the default group",
    "concurrency": "handlers that run at a time",
    "order": "`none`, `key` or `total`, at most what the topic was declared with; unset: that",
    "prefetch": "messages in hand that are not settled; unset: twice what runs at a time, at least 64 (128 on a log)",
    "retry": "a `Retry`, or the number of attempts",
    "on_poison": "a body that cannot be read: `dead_letter`, `drop` or `stop`",
    "on_unmatched": "an event of the group's channel that nobody here handles: `dead_letter`, `ignore` or `stop`",
    "batch": "messages a call; the handler takes lists",
    "batch_wait": "seconds to wait for a batch to fill",
    "timeout": "seconds after which a handler is ended, which counts as a failure; unset: never",
    "start": "where a new group begins: `earliest`, `latest` or a datetime; only where the provider keeps history",
    "env": "another environment than the client's",
    "product": "the client's product, if it is to be said",
}


def documented_fields(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Attribute docstrings of a Struct, as its source has them."""
    [node] = ast.parse(inspect.getsource(kind)).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, after in itertools.pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(after.value.value).split()).replace("``", "`")
    return found


def config_table(kind: type[msgspec.Struct]) -> str:
    meanings = documented_fields(kind)
    annotations = {
        name: value for base in reversed(kind.__mro__) for name, value in getattr(base, "__annotations__", {}).items()
    }
    rows = ""
    for field in msgspec.structs.fields(kind):
        default = field.default if field.default is not msgspec.NODEFAULT else {}
        shown = "" if default is None else f"`{msgspec.json.encode(default).decode()}`"
        shown = "required" if field.required else shown
        kind_of = annotations[field.name].replace(" | ", " or ")
        rows += row(f"`{field.name}`", f"`{kind_of}`", shown, meanings[field.name])
    return head("field", "type", "default", "") + rows


def capability_table(columns: dict[str, Capabilities]) -> str:
    rows = ""
    for field in msgspec.structs.fields(Capabilities):
        values = [getattr(can, field.name) for can in columns.values()]
        rows += row(f"`{field.name}`", *(capability(value) for value in values))
    return head("capability", *columns) + rows


def capability(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    name = getattr(value, "name", None)
    if name is not None:
        return str(name).lower()
    if isinstance(value, int):
        return f"{value:,}"
    assert isinstance(value, float)  # the others are seconds
    for unit, name in ((86_400, "days"), (3_600, "h")):
        if float("inf") > value >= 2 * unit:
            return f"{value / unit:.3g} {name}"
    return "any" if value == float("inf") else f"{value:g} s"


def memory_config() -> str:
    return config_table(importlib.import_module("ductape_memory").MemoryConfig)


def memory_capabilities() -> str:
    memory = importlib.import_module("ductape_memory")
    return capability_table({name: getattr(memory, name.upper()) for name in ("queue", "stream", "log", "lossy")})


def sqlite_config() -> str:
    return config_table(importlib.import_module("ductape_sqlite").SqliteConfig)


def sqlite_capabilities() -> str:
    return capability_table({"file": importlib.import_module("ductape_sqlite").SqliteAdapter.capabilities})


def kafka_config() -> str:
    return config_table(importlib.import_module("ductape_kafka").KafkaConfig)


def kafka_capabilities() -> str:
    return capability_table({"topic": importlib.import_module("ductape_kafka").KafkaAdapter.capabilities})


def rabbitmq_config() -> str:
    return config_table(importlib.import_module("ductape_rabbitmq").RabbitMQConfig)


def rabbitmq_capabilities() -> str:
    return capability_table({"quorum": importlib.import_module("ductape_rabbitmq").RabbitMQAdapter.capabilities})


def nats_config() -> str:
    return config_table(importlib.import_module("ductape_nats").NatsConfig)


def nats_capabilities() -> str:
    return capability_table({"jetstream": importlib.import_module("ductape_nats").NatsAdapter.capabilities})


def redis_config() -> str:
    return config_table(importlib.import_module("ductape_redis").RedisConfig)


def redis_capabilities() -> str:
    return capability_table({"stream": importlib.import_module("ductape_redis").RedisAdapter.capabilities})


def sqs_config() -> str:
    return config_table(importlib.import_module("ductape_sqs").SqsConfig)


def sqs_capabilities() -> str:
    fifo = importlib.import_module("ductape_sqs").SqsAdapter.capabilities
    standard = msgspec.structs.replace(fifo, order=ductape.adapter.Order.NONE, order_locks=False)
    return capability_table({"standard": standard, "FIFO": msgspec.structs.replace(fifo, send_delay=0.0)})


def google_pubsub_config() -> str:
    return config_table(importlib.import_module("ductape_google_pubsub").GooglePubSubConfig)


def google_pubsub_capabilities() -> str:
    adapter = importlib.import_module("ductape_google_pubsub").GooglePubSubAdapter
    return capability_table({"subscription": adapter.capabilities})


def floor_table() -> str:
    rows = (row(number, " ".join(f"`{name}`" for name in floor)) for number, floor in enumerate(FLOORS))
    return head("floor", "modules") + "".join(rows)


def template(path: str) -> str:
    """A file of the template, as it is with a name."""
    return f'```python title="{filled(path, "acme")}"\n{filled((TEMPLATE / path).read_text(), "acme")}```\n'


def example(name: str) -> str:
    """A program of the examples, as a page shows it."""
    code = (ROOT / "examples" / name).read_text().replace(f"examples/{name}", name)
    return f'```python title="{name}"\n{code}```\n'


def scenario_table(level: str) -> str:
    scenarios = importlib.import_module("ductape_conformance").SCENARIOS.values()
    rows = (
        row(f"`{one.id}`", one.promise.replace("``", "`"), " ".join(f"`{need}`" for need in one.needs))
        for one in scenarios
        if one.level == level
    )
    return head("scenario", "promise", "needs") + "".join(rows)


def mutant_table() -> str:
    mutants = importlib.import_module("ductape_conformance.mutants")
    rows = "".join(row(f"`{one.name}`", f"`{one.killers[0]}`") for one in mutants.MUTANTS.values())
    return head(f"{len(mutants.ADAPTERS)} adapters, {len(mutants.KERNELS)} kernels", "killed by") + rows


def results_table(kind: str) -> str:
    """A table of the reports that are kept of each adapter; no server is needed for it."""
    tables = importlib.import_module("ductape_conformance.tables")
    made: str = getattr(tables, kind)(tables.read(DOCS / "reports"))
    return made


GENERATED: dict[tuple[str, str], Callable[[], str]] = {
    ("../CONTRIBUTING.md", "floors"): floor_table,
    ("headers.md", "headers"): header_table,
    ("quickstart.md", "terminals"): functools.partial(example, "terminals.py"),
    ("conformance.md", "contract"): functools.partial(scenario_table, "contract"),
    ("conformance.md", "promises"): functools.partial(scenario_table, "promise"),
    ("conformance.md", "mutants"): mutant_table,
    ("conformance.md", "results"): functools.partial(results_table, "summary"),
    ("conformance.md", "results capabilities"): functools.partial(results_table, "capabilities"),
    ("conformance.md", "results scenarios"): functools.partial(results_table, "scenarios"),
    **{
        ("write-an-adapter.md", f"template {Path(path).stem}"): functools.partial(template, path)
        for path in (
            *(f"src/ductape_NAME/{name}.py" for name in MODULES),
            "tests/harness.py",
            "tests/test_conformance.py",
        )
    },
    ("guide/subscribe.md", "options"): option_table,
    ("providers/memory.md", "config"): memory_config,
    ("providers/memory.md", "capabilities"): memory_capabilities,
    ("providers/google_pubsub.md", "config"): google_pubsub_config,
    ("providers/google_pubsub.md", "capabilities"): google_pubsub_capabilities,
    ("providers/kafka.md", "config"): kafka_config,
    ("providers/kafka.md", "capabilities"): kafka_capabilities,
    ("providers/nats.md", "config"): nats_config,
    ("providers/nats.md", "capabilities"): nats_capabilities,
    ("providers/rabbitmq.md", "config"): rabbitmq_config,
    ("providers/rabbitmq.md", "capabilities"): rabbitmq_capabilities,
    ("providers/redis.md", "config"): redis_config,
    ("providers/redis.md", "capabilities"): redis_capabilities,
    ("providers/sqs.md", "config"): sqs_config,
    ("providers/sqs.md", "capabilities"): sqs_capabilities,
    ("providers/sqlite.md", "config"): sqlite_config,
    ("providers/sqlite.md", "capabilities"): sqlite_capabilities,
    **{("benchmarks.md", name): generate for name, generate in benchmarks.page.GENERATED.items()},
}


def between(name: str) -> "re.Pattern[str]":
    return re.compile(rf"(?<=<!-- begin {name} -->\n\n).*?(?=\n<!-- end {name} -->)", re.DOTALL)


@pytest.mark.parametrize(("page", "name"), GENERATED, ids=str)
def test_generated_tables_are_up_to_date(page: str, name: str) -> None:
    found = between(name).search((DOCS / page).read_text())
    assert found is not None
    assert found[0] == GENERATED[page, name](), "python -m tests.test_docs writes it anew"


def test_plots_are_up_to_date() -> None:
    kept = {path.stem: path.read_text() for path in benchmarks.page.PLOTS.glob("*.svg")}
    assert kept == benchmarks.page.drawn(), "python -m tests.test_docs writes them anew"


def codes_of_errors() -> dict[str, set[str]]:
    """Codes by class, from the drawing at the top of `ductape.errors`."""
    found: dict[str, set[str]] = {}
    kind = ""
    for line in str(ductape.errors.__doc__).splitlines():
        names = re.findall(r"[A-Z]\w*", line)
        if "──" in line:
            kind = names.pop(0)
        if kind and ("──" in line or line.lstrip().startswith("│")):
            found.setdefault(kind, set()).update(name for name in names if re.fullmatch(r"[A-Z]+_?[A-Z_]+", name))
    return found


def test_every_error_code_is_explained() -> None:
    page = (DOCS / "guide" / "errors.md").read_text()
    told: dict[str, set[str]] = {}
    for code, kind in re.findall(r"^\| `([A-Z_]+)` \| `(\w+)`", page, re.MULTILINE):
        told.setdefault(kind, set()).add(code)
    drawn = {kind: codes for kind, codes in codes_of_errors().items() if kind != "ManyFailed"}
    assert told == drawn
    assert all(hasattr(ductape.errors, kind) for kind in drawn)


def test_every_code_that_is_raised_is_drawn() -> None:
    core = Path(str(ductape.__file__)).parent
    raised = set()
    for path in core.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith(
                ("Error", "TooLarge", "Timeout", "Overloaded")
            ):
                raised |= {
                    each.value
                    for each in node.args[:1]
                    if isinstance(each, ast.Constant) and re.fullmatch(r"[A-Z]+_?[A-Z_]+", str(each.value))
                }
    assert raised <= set().union(*codes_of_errors().values())


def write() -> None:
    """Writes every generated table anew."""
    for (page, name), generate in GENERATED.items():
        path, table = DOCS / page, generate()
        path.write_text(between(name).sub(lambda _, table=table: table, path.read_text()))  # type: ignore[misc]
    for _ in benchmarks.page.write():
        pass


if __name__ == "__main__":
    write()
