"""Fixtures and rules for every test of the repository; the root conftest.py loads it.

For every server of `SERVERS`, `<name>_server` is a running server of the session, `<name>_proxy` an open `TcpProxy` in
front of it. A test that uses a server's fixture carries the mark `broker` by itself, and runs on the worker that has
that server. Async tests run on asyncio and on uvloop.
"""

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping

import pytest

from ductape_conformance.proxy import TcpProxy
from tests.brokers import SERVERS
from tests.brokers.server import NotOurs, Server, Unavailable, proxy_of

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

_NO_SERVER = "no server: "
_FIXTURES: dict[str, type[Server] | None] = {}
_RUNNING: list[Server] = []


def _server_fixture(kind: type[Server]) -> Callable[[], Iterator[Server]]:
    """Makes the fixture `<name>_server`: one server for the whole session, up again before every test."""

    @pytest.fixture(scope="session", name=f"{kind.name}_server")
    def server() -> Iterator[Server]:
        running = kind()
        try:
            running.start()
        except Unavailable as error:
            running.stop()
            text = f"{_NO_SERVER}{kind.name}: {error}"
            # A machine that builds must not pass by testing less; a person sees it in the box at the end.
            if os.environ.get("CI"):
                pytest.fail(text, pytrace=False)
            pytest.skip(text)
        _RUNNING.append(running)
        yield running
        _RUNNING.remove(running)
        running.stop()

    _FIXTURES[f"{kind.name}_server"] = kind
    return server  # pytest's fixture object, which it finds by its name


def _proxy_fixture(name: str) -> Callable[..., AsyncIterator[TcpProxy]]:
    """Makes the fixture `<name>_proxy`: an open proxy in front of the server, without faults, for one test."""

    @pytest.fixture(name=f"{name}_proxy")
    async def proxy(request: pytest.FixtureRequest) -> AsyncIterator[TcpProxy]:
        server: Server = request.getfixturevalue(f"{name}_server")
        async with proxy_of(server) as running:
            yield running

    _FIXTURES[f"{name}_proxy"] = None
    return proxy


for _kind in SERVERS:
    globals()[f"{_kind.name}_server"] = _server_fixture(_kind)
    globals()[f"{_kind.name}_proxy"] = _proxy_fixture(_kind.name)


@pytest.fixture
def start_server() -> Iterator[Callable[[Server], Server]]:
    """Starts a server of the test's own, as `start_server(Redis(appendfsync="everysec"))`, and stops it at the end."""
    with contextlib.ExitStack() as stack:

        def start(server: Server) -> Server:
            stack.callback(server.stop)
            try:
                server.start()
            except Unavailable as error:
                text = f"{_NO_SERVER}{server.name}: {error}"
                if os.environ.get("CI"):
                    pytest.fail(text, pytrace=False)
                pytest.skip(text)
            return server

        yield start


_FIXTURES["start_server"] = None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--loops`."""
    parser.addoption("--loops", default="asyncio,uvloop", help="event loops for async tests (default: %(default)s)")


def _loops(config: pytest.Config) -> dict[str, LoopFactory]:
    wanted = str(config.getoption("--loops")).split(",")
    factories: dict[str, LoopFactory] = {}
    if "asyncio" in wanted:
        factories["asyncio"] = asyncio.new_event_loop
    if "uvloop" in wanted and importlib.util.find_spec("uvloop"):
        import uvloop  # only where it is installed: it is an extra

        factories["uvloop"] = uvloop.new_event_loop
    if not factories:
        raise pytest.UsageError(f"--loops={','.join(wanted)}: none of these is here; there are asyncio and uvloop")
    return factories


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Runs every async test on every loop that is wanted and here."""
    return _loops(config)


def pytest_report_header(config: pytest.Config) -> str:
    """Says on which loops async tests run."""
    loops = _loops(config)
    missing = (
        "" if "uvloop" in loops or "uvloop" not in str(config.getoption("--loops")) else " (uvloop is not installed)"
    )
    return f"loops: {', '.join(loops)}{missing}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that use a server's fixture, before `-m` chooses; spares a server that is not ours."""
    for item in items:
        used = _FIXTURES.keys() & set(getattr(item, "fixturenames", ()))
        if not used:
            continue
        item.add_marker("broker")
        # A worker for each server and loop: it starts once, what kills it disturbs nobody, and no worker is the last
        # for long.
        loop = "uvloop" if "uvloop" in item.nodeid else "asyncio"
        item.add_marker(pytest.mark.xdist_group(f"{min(name.partition('_')[0] for name in used)}-{loop}"))
        for kind in filter(None, map(_FIXTURES.get, used)):
            if item.get_closest_marker("kills") and os.environ.get(kind.variable):
                item.add_marker(
                    pytest.mark.skip(reason=f"kills its server, and {kind.variable} names one that is not ours")
                )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Brings back what the last test left dead, so that one failure does not become fifty."""
    for server in _RUNNING:
        if not server.given and not server.alive:
            server.restart()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Skips a test that wants to kill a server which is not ours, and does not carry the mark `kills`."""
    try:
        return (yield)
    except NotOurs as error:
        pytest.skip(str(error))


def _missing(reporter: pytest.TerminalReporter) -> list[str]:
    """Collects what this run did not test, one line each, from skips and from the session's environment."""
    counts: dict[str, int] = {}
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        _, found, text = str(reason).partition(_NO_SERVER)
        if found:
            counts[text] = counts.get(text, 0) + 1
    lines = [f"{count} tests skipped: {text}" for text, count in counts.items()]
    versions = os.environ.get("DUCTAPE_TEST_MISSING_PYTHONS", "").split()
    return lines + [f"Python {version} is not here: core and memory were not run on it" for version in versions]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Draws a box around what was not tested, as visible as a failure."""
    lines = _missing(terminalreporter)
    if not lines:
        return
    terminalreporter.section("NOT TESTED HERE", sep="#", red=True, bold=True)
    for line in lines:
        terminalreporter.line(f"#  {line}", red=True)
    terminalreporter.line("#" * 60, red=True)
