"""Where the tests find their server."""

from pathlib import Path

import pytest

from tests.brokers import pubsub


def test_the_emulator_is_found_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "cloud-pubsub-emulator-0.8.9-all.jar"
    new = tmp_path / "lib" / "cloud-pubsub-emulator-0.9.0-all.jar"
    new.parent.mkdir()
    for jar in (old, new):
        jar.touch()
    for said, found in ((old, old), (new.parent, new), (tmp_path / "lib", new), (tmp_path, old)):
        monkeypatch.setenv(pubsub.EMULATOR, str(said))
        assert next(pubsub._jars()) == found


def test_a_server_of_the_environment_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUCTAPE_TEST_PUBSUB", "emulator.example:8085")
    given = pubsub.Pubsub()
    assert (given.host, given.port, given.url) == ("emulator.example", 8085, "emulator.example:8085")
