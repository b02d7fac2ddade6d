"""`ductape top`: the figures that running services tell, and what becomes of services that do not."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ductape_cli import _figures

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no Unix sockets")]

MANIFEST = """
product = "shop"

[[broker]]
tag = "orders"

[[broker.env]]
slug = "dev"
type = "MEMORY"

[[topic]]
tag = "orders:new"
"""

SERVICE = """
import asyncio
from ductape import Ductape, Reject


class Starting:
    def subscriber(self, next, site):
        self.publishing = asyncio.get_running_loop().create_task(publish())
        return next


ductape = Ductape(product="shop", env="dev", catalog="ductape.toml", middleware=[Starting()])


async def publish():
    for number in range(1_000_000):
        await ductape.event.publish("orders:new", number)
        await asyncio.sleep(0.005)


@ductape.event.subscribe("orders:new", group="billing")
async def bill(number: int) -> None:
    if number == 0:
        print("serving", flush=True)
    if number % 5 == 0:
        raise Reject("no")
"""

Ductape = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def ductape(tmp_path: Path) -> Iterator[Ductape]:
    """Start the command in a folder with a service; sockets lie in a short path of their own."""
    (tmp_path / "ductape.toml").write_text(MANIFEST)
    (tmp_path / "service.py").write_text(SERVICE)
    started = []

    def start(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        command = [sys.executable, "-W", "error", "-m", "ductape_cli", *arguments]
        env = {**os.environ, "NO_COLOR": "1", "DUCTAPE_RUN_DIR": "run"}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=env, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def service(ductape: Ductape, **options: Any) -> "subprocess.Popen[str]":
    running = ductape("run", "service:ductape", stderr=subprocess.DEVNULL, **options)
    assert running.stdout is not None
    assert running.stdout.readline() == "serving\n"
    return running


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=40)
    return process.returncode, out, errors


def test_a_running_service_tells_its_figures(ductape: Ductape, tmp_path: Path) -> None:
    running = service(ductape)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    status, out, errors = ended(ductape("top", "--json", "--interval", "0.5", "--limit", "2"))
    assert (status, errors) == (0, "")
    first, second = (json.loads(line)["services"][0] for line in out.splitlines())
    assert (second["target"], second["pid"], second["healthy"]) == ("service:ductape", running.pid, True)
    [group], [before] = second["groups"], first["groups"]
    assert (group["group"], group["state"], group["window"]) == ("billing", "receiving", 64)
    handled = (group["handled"] - before["handled"]) / (second["at"] - first["at"])
    assert group["per_second"]["handled"] == pytest.approx(handled, abs=0.06)
    assert handled > 0
    assert group["dead"] >= 1
    assert group["per_second"]["failed"] > 0
    stored = next(each for each in second["channels"] if each["channel"] == "orders.new")
    assert stored["per_second"]["stored"] > 0


def test_what_is_no_terminal_gets_one_table(ductape: Ductape) -> None:
    service(ductape)
    status, out, errors = ended(ductape("top", "service:ductape", "--interval", "0.5"))
    assert (status, errors) == (0, "")
    assert "product shop, env dev: healthy" in out
    header, _, row = [line.split() for line in out.splitlines() if line][1:4]
    assert (header[0], row[0]) == ("group", "billing")
    assert float(row[1]) > 0  # a rate, not a dash


def test_a_narrow_terminal_gets_what_matters_most(ductape: Ductape, tmp_path: Path) -> None:
    service(ductape)
    above, below = pty.openpty()
    subprocess.run(["stty", "cols", "44"], stdin=below, check=True)
    top = ductape("top", "--interval", "0.5", "--limit", "1", stdin=below, stdout=below)
    os.close(below)
    shown = b""
    try:
        while part := os.read(above, 4096):
            shown += part
    except OSError:  # the end, as Linux tells it
        pass
    assert ended(top)[0] == 0
    os.close(above)
    text = shown.decode()
    assert "failed/s" in text
    assert "lag" in text
    assert "oldest" not in text
    assert "billing" in text


def test_top_ends_in_order_when_it_is_interrupted(ductape: Ductape) -> None:
    service(ductape)
    top = ductape("top", "--json", "--interval", "0.2")
    assert top.stdout is not None
    assert top.stdout.readline().startswith("{")
    top.send_signal(signal.SIGINT)
    status, _, errors = ended(top)
    assert (status, errors) == (0, "")


def test_a_service_that_ended_leaves_nothing_and_one_that_was_killed_is_not_shown(
    ductape: Ductape, tmp_path: Path
) -> None:
    running = service(ductape)
    assert list((tmp_path / "run").iterdir())
    running.terminate()
    assert ended(running)[0] == 0
    assert list((tmp_path / "run").iterdir()) == []
    running = service(ductape)
    running.kill()
    ended(running)
    status, out, errors = ended(ductape("top"))
    assert (status, out) == (1, "")
    assert "SERVICE_NOT_FOUND: no service runs here as this user. Start it with `ductape run" in errors
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_others_can_enter_is_not_used_and_the_service_runs(ductape: Ductape, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    running = ductape("run", "service:ductape")
    assert running.stdout is not None
    assert running.stdout.readline() == "serving\n"
    assert list((tmp_path / "run").iterdir()) == []
    running.terminate()
    assert "is not a folder that only this user can enter" in ended(running)[2]


async def test_a_service_that_does_not_answer_is_shown_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUCTAPE_RUN_DIR", str(tmp_path))
    monkeypatch.setattr(_figures, "ASK", 0.2)
    done = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    monkeypatch.chdir(tmp_path)
    server = await asyncio.start_unix_server(silent, f"{os.getpid()}-x.sock")
    try:
        [found] = await _figures.asked()
    finally:
        done.set()
        server.close()
        await server.wait_closed()
    assert found["pid"] == os.getpid()
    assert "no answer within 0.2 s: something blocks its event loop" in found["problem"]
