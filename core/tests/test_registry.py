"""Adapters and middleware by name, from real entry points in a folder of the test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from ductape._registry import Registry, default_registry
from ductape.adapter import Adapter, Capabilities, Connection, Site
from ductape.errors import AdapterNotUsable, ConfigError

WHERE = "broker 'order-events' uses KAFKA in 'prd'"
MODULE = """
from ductape.adapter import Adapter, Capabilities
from msgspec import Struct

class Config(Struct, frozen=True, kw_only=True):
    host: str = ""

class Good(Adapter):
    api = 1
    config = Config
    capabilities = Capabilities()
    async def connect(self, config, site): ...

class Newer(Good):
    api = 2

class Older(Good):
    api = 0

class Silent(Adapter):
    async def connect(self, config, site): ...

class NoConfig(Good):
    config = dict

class Abstract(Adapter):
    api = 1
    config = Config

class Stranger:
    api = 1
    config = Config

class Tracing:
    def publisher(self, next, site):
        return next

tracing = Tracing()
"""


class NullConfig(Struct, frozen=True, kw_only=True):
    host: str = ""


class Null(Adapter[NullConfig]):
    api = 1
    config = NullConfig
    capabilities = Capabilities()

    async def connect(self, config: NullConfig, site: Site) -> Connection:
        raise NotImplementedError


class Packages:
    """Installs distributions by writing their metadata into a folder on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "acme_adapters.py").write_text(MODULE)
        (folder / "acme_broken.py").write_text("raise RuntimeError('no such library')\n")
        (folder / "acme_untouched.py").write_text("raise AssertionError('loaded without being asked for')\n")

    def install(self, name: str, **groups: dict[str, str]) -> None:
        info = self.folder / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = [
            line
            for group, entries in groups.items()
            for line in (f"[ductape.{group}]", *(f"{entry} = {value}" for entry, value in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Packages(tmp_path)
    for name in ("acme_adapters", "acme_broken", "acme_untouched"):
        sys.modules.pop(name, None)


def refusal(registry: Registry, provider: str = "acme", where: str = WHERE) -> AdapterNotUsable:
    with pytest.raises(AdapterNotUsable) as caught:
        registry.adapter(provider, where=where)
    return caught.value


class TestAdapters:
    def test_exactly_the_asked_one_is_loaded(self, packages: Packages) -> None:
        packages.install("acme", adapters={"acme_mq": "acme_adapters:Good", "other": "acme_untouched:Adapter"})
        registry = Registry()
        for spelling in ("acme-mq", "ACME_MQ", "Acme-Mq"):
            assert type(registry.adapter(spelling, where=WHERE)).__name__ == "Good"
        assert "acme_untouched" not in sys.modules
        assert ("ACME_MQ", "acme", "1.2") in registry.installed()

    def test_each_client_gets_its_own(self, packages: Packages) -> None:
        packages.install("acme", adapters={"acme": "acme_adapters:Good"})
        registry = Registry()
        assert registry.adapter("acme", where=WHERE) is not registry.adapter("acme", where=WHERE)

    @pytest.mark.parametrize(
        ("provider", "package"),
        [
            ("KAFKA", "ductape-kafka"),
            ("rabbitmq", "ductape-rabbitmq"),
            ("REDIS", "ductape-redis"),
            ("aws-sqs", "ductape-sqs"),
            ("GOOGLE_PUBSUB", "ductape-google-pubsub"),
            ("NATS", "ductape-nats"),
            ("MEMORY", "ductape-memory"),
            ("SQLITE", "ductape-sqlite"),
        ],
    )
    def test_a_known_one_that_is_missing_says_what_to_install(self, provider: str, package: str) -> None:
        error = refusal(Registry.of({}), provider)
        assert str(error) == f"ADAPTER_NOT_INSTALLED: {WHERE}. pip install {package}"
        assert error.fields["package"] == package

    def test_an_unknown_one_is_told_the_nearest_and_what_is_installed(self, packages: Packages) -> None:
        packages.install("acme", adapters={"acme_mq": "acme_untouched:Adapter"})
        error = refusal(Registry(), "kafak")
        assert error.code == "ADAPTER_UNKNOWN"
        assert "no adapter has the name 'KAFAK'. Did you mean 'KAFKA'? Installed: ACME_MQ" in str(error)
        assert "Did you mean 'ACME_MQ'?" in str(refusal(Registry(), "acmemq"))

    def test_two_distributions_of_one_name_are_named_and_not_loaded(self, packages: Packages) -> None:
        packages.install("acme", adapters={"acme-mq": "acme_untouched:Adapter"})
        packages.install("zeta", adapters={"acme_mq": "acme_untouched:Adapter"})
        error = refusal(Registry(), "acme-mq")
        assert error.code == "ADAPTER_AMBIGUOUS"
        assert "both acme 1.2 and zeta 1.2 provide" in str(error)
        assert "acme_untouched" not in sys.modules

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            ("acme_adapters:Newer", "is written for version 2 of the adapter contract, and ductape-core speaks 1. Upg"),
            ("acme_adapters:Older", "speaks 1. Upgrade the adapter."),
            ("acme_adapters:Silent", "is written for version None"),
            ("acme_adapters:NoConfig", "has no msgspec Struct as its config"),
            ("acme_adapters:Abstract", "lacks connect"),
            ("acme_adapters:Stranger", "Stranger (acme 1.2) is no subclass of ductape.adapter.Adapter"),
            ("acme_adapters:Missing", "acme 1.2 cannot be loaded: AttributeError"),
            ("acme_broken:Adapter", "acme 1.2 cannot be loaded: RuntimeError: no such library"),
        ],
    )
    def test_one_that_cannot_be_used_says_why(self, packages: Packages, value: str, told: str) -> None:
        packages.install("acme", adapters={"acme": value})
        error = refusal(Registry())
        assert error.code == "ADAPTER_INCOMPATIBLE"
        assert told in str(error)
        assert (error.__cause__ is not None) == ("cannot be loaded" in told)

    def test_given_ones_are_used_and_no_others(self) -> None:
        null = Null()
        registry = Registry.of({"kafka": null, "aws-sqs": Null})
        assert registry.adapter("KAFKA", where=WHERE) is null
        assert isinstance(registry.adapter("AWS_SQS", where=WHERE), Null)
        assert [each.name for each in registry.installed()] == ["AWS_SQS", "KAFKA"]
        assert repr(registry) == "<Registry AWS_SQS, KAFKA>"


class TestMiddleware:
    def test_a_class_is_made_and_an_object_taken(self, packages: Packages) -> None:
        packages.install("acme", middleware={"a": "acme_adapters:Tracing", "b": "acme_adapters:tracing"})
        registry = Registry()
        assert type(registry.middleware("a")).__name__ == "Tracing"
        assert registry.middleware("b") is registry.middleware("b")

    def test_a_missing_one_is_told_the_nearest_or_what_to_install(self, packages: Packages) -> None:
        packages.install("acme", middleware={"tracing": "acme_adapters:tracing"})
        for name, told in (
            ("tracin", "MIDDLEWARE_NOT_FOUND: no middleware 'tracin' is installed. Did you mean 'tracing'?"),
            ("opentelemetri", "Did you mean 'opentelemetry'?"),
        ):
            with pytest.raises(ConfigError) as caught:
                Registry().middleware(name)
            assert str(caught.value).endswith(told)
        with pytest.raises(ConfigError, match=r"'opentelemetry' is not installed\. pip install ductape-opentelemetry"):
            Registry.of({}, {}).middleware("opentelemetry")

    def test_one_that_clashes_or_fails_says_so(self, packages: Packages) -> None:
        packages.install("acme", middleware={"a": "acme_adapters:tracing", "b": "acme_broken:x"})
        packages.install("zeta", middleware={"a": "acme_adapters:tracing"})
        with pytest.raises(ConfigError, match=r"both acme 1\.2 and zeta 1\.2 provide middleware 'a'"):
            Registry().middleware("a")
        with pytest.raises(ConfigError, match=r"middleware 'b' of acme 1\.2 cannot be loaded: RuntimeError"):
            Registry().middleware("b")

    def test_given_adapters_leave_installed_middleware(self, packages: Packages) -> None:
        packages.install("acme", middleware={"a": "acme_adapters:Tracing"})
        assert type(Registry.of({}).middleware("a")).__name__ == "Tracing"
        assert Registry.of({}, {"a": 1}).middleware("a") == 1


def test_the_default_is_made_once() -> None:
    assert default_registry() is default_registry()


def test_importing_the_registry_loads_nothing_slow() -> None:
    code = (
        "import sys, ductape._catalog, ductape._registry, ductape.types;"
        "slow = {'stevedore', 'importlib.metadata', 'difflib', 'tomllib', 'yaml'};"
        "sys.exit(' '.join(slow & set(sys.modules)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (run.returncode, run.stderr) == (0, "")
