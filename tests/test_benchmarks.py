"""The benchmarks themselves: they count what is lost, compare by spread, and go on where they stopped."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from benchmarks import cases, counts, kernel, providers, runner
from benchmarks.child import Spec
from benchmarks.contestants import CONTESTANTS
from benchmarks.goals import goals
from benchmarks.latency import bucket, percentile
from benchmarks.load import LOADS, Ledger, counting
from benchmarks.report import compare
from benchmarks.results import Figure, Measured, Report
from benchmarks.runner import Job, Pace, measure, run_child
from tests.brokers import Server

ROOT = Path(__file__).parents[1]
CLIENTS = ("redis", "aiokafka", "aio_pika", "nats", "botocore", "aiobotocore", "google.cloud", "grpc", "faststream")
CODE = (
    "import sys, json; from benchmarks import providers; providers.provider({!r}); print(json.dumps(list(sys.modules)))"
)


def figure(*samples: float, contestant: str = "ductape", case: str = "consume") -> Figure:
    return Figure(suite="redis", case=case, title="consume", contestant=contestant, samples=list(samples))


@pytest.mark.parametrize("name", providers.NAMES)
def test_a_provider_is_listed_without_loading_any_client(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(name)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout)
    assert [module for module in loaded if module.startswith(CLIENTS)] == []


@pytest.mark.parametrize("name", providers.NAMES)
def test_a_provider_says_in_its_clients_words_what_was_done(name: str) -> None:
    provider = providers.provider(name)
    assert provider.distribution
    assert provider.settings
    if provider.raw is not None:
        ways = provider.raw.ways
        for way in ("publish_bulk", "consume_bulk"):
            assert bool(getattr(ways, way)) == (getattr(provider.raw, way) is not getattr(providers.Raw, way)), way


def test_every_goal_is_about_a_case_and_compares_with_one() -> None:
    known = {"kernel": {*kernel.CASES, "import"}, "counts": set(counts.CASES)}
    for goal in goals():
        names = known.get(goal.suite, set(cases.CASES))
        assert goal.case in names, goal
        assert goal.suite in (*known, *providers.NAMES, "*", "kafka", "rabbitmq", "nats", "sqs", "google_pubsub"), goal
        assert goal.than in {"", *names, *CONTESTANTS, "asyncio"}, goal


@pytest.mark.parametrize("name", ["100 B", "1 kB", "64 kB"])
def test_an_event_has_the_size_that_its_case_names(name: str) -> None:
    size = {"100 B": 100, "1 kB": 1_000, "64 kB": 64_000}[name]
    assert abs(len(msgspec.json.encode(LOADS[name].make(12_345))) - size) <= 2


def test_a_ledger_tells_what_was_lost_and_what_came_twice() -> None:
    ledger = Ledger(4)
    for number in (0, 1, 1):
        ledger.seen[number] += 1
    assert ledger.faults() == ["LOST 2", "TWICE 1"]


async def test_work_is_finished_when_all_came_although_one_came_twice() -> None:
    work = counting(3, LOADS["order"])
    for number in (0, 0, 1, 2):
        await work.handle(LOADS["order"].make(number))
    await work.finished()
    assert work.ledger.faults() == ["TWICE 1"]


def test_percentiles_are_right_within_a_bucket() -> None:
    histogram: dict[int, int] = {}
    for milliseconds in range(1, 1001):
        place = bucket(milliseconds / 1000)
        histogram[place] = histogram.get(place, 0) + 1
    assert percentile(histogram, 0.5) == pytest.approx(500, rel=0.02)
    assert percentile(histogram, 0.99) == pytest.approx(990, rel=0.02)


def test_what_is_slower_beyond_the_spread_of_both_is_said() -> None:
    before = Report(figures=[figure(10, 11, 12), figure(10, 12, contestant="raw")])
    after = Report(figures=[figure(13, 14, 15), figure(11, 13, contestant="raw")])
    slower, faster = compare(before, after).split("Slower beyond")[1].split("Faster beyond")
    assert "ductape" in slower
    assert "raw" not in slower
    assert "nothing" in faster


def test_a_run_that_was_interrupted_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ran = tmp_path / "latest.json", []

    def child(spec: Spec) -> Measured:
        ran.append(spec.contestant)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return Measured(value=1.0, extra={"wall": 1000.0, "messages": float(spec.messages)})

    monkeypatch.setattr(runner, "run_child", child)
    pace = Pace(repeats=2, seconds=1.0, budget=60)

    def jobs(report: Report) -> list[Job]:
        names = ("raw", "ductape")
        return [
            Job(
                figure=report.kept(figure(contestant=name)),
                spec=Spec(suite="redis", case="consume", contestant=name, messages=100),
            )
            for name in names
        ]

    report = Report()
    with pytest.raises(KeyboardInterrupt):
        measure(jobs(report), pace, lambda: report.write(path))
    again = Report.read(path)
    measure(jobs(again), pace, lambda: again.write(path))
    assert [len(each.samples) for each in Report.read(path).figures] == [2, 2]
    assert ran == ["raw", "ductape", "raw", "raw", "ductape"]


def test_the_memory_adapter_is_measured_in_a_process_of_its_own() -> None:
    measured = run_child(Spec(suite="memory", case="consume", messages=2_000))
    assert measured.notes == []
    assert 0 < measured.value < 10_000
    assert measured.extra["messages"] == 2_000


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", ["publish-1000", "consume"])
def test_on_redis_a_message_costs_a_fraction_of_what_the_raw_client_needs(
    case: str, start_server: Callable[[Server], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Everything on the server is removed between runs, so it is one of our own. The goals are 0.22 and about 0.15: a
    # bound that leaves room for a busy machine still tells a hot path that was lost.
    provider = providers.provider("redis")
    monkeypatch.delenv("DUCTAPE_TEST_REDIS", raising=False)
    server = provider.server()
    assert server is not None
    spec = Spec(suite="redis", case=case, messages=4_000, url=start_server(server).url)
    cost = {}
    for contestant in ("raw", "ductape"):
        spec = msgspec.structs.replace(spec, contestant=contestant)
        if cases.CASES[case].backlog:
            run_child(msgspec.structs.replace(spec, fills=True))
        measured = run_child(spec)
        assert measured.notes == []
        cost[contestant] = measured.value
    assert cost["ductape"] < 0.5 * cost["raw"]
