"""What the kit cannot know: names, contents and native errors."""

import errno
from pathlib import Path

import pytest

from ductape.adapter import Channel, Epoch, Fault, Outgoing, Purpose, translated
from ductape_directory import DirectoryConfig
from ductape_directory._wire import File, delivery_of, directory_of, fault_of, file_of

FILE = File(1_700_000_000_000_000_000, 2, "01700000000000000000-abcd")


@pytest.mark.parametrize("name", ["..", ".", "../../etc", ".hidden", "a/b", "a\0b", "ž 日本", "a+b", "a~b"])
def test_no_name_leaves_the_directory_or_hides(name: str) -> None:
    found = directory_of(Channel(name=name))
    assert Path(found).name == found
    assert not found.startswith(".")
    assert "+" not in found


def test_channels_of_a_group_are_nobody_elses() -> None:
    names = {
        directory_of(Channel(name=name, purpose=purpose, group=group))
        for name in ("orders", "orders.billing", "orders+billing+retry")
        for purpose in Purpose
        for group in ("billing", "audit")
    }
    assert len(names) == 3 * (1 + 2 * 2)
    assert directory_of(Channel(name="orders", purpose=Purpose.DEAD, group="billing")) == "orders+billing+dead"


def test_a_name_is_read_as_it_was_written() -> None:
    assert File.parse(str(FILE)) == FILE
    assert FILE.stored_at == 1_700_000_000
    for other in ("README", ".0a1b", "1~2", "1~x~id", "²~2~id", "1~2~id~more"):
        assert File.parse(other) is None
    assert File.new(5.0, 2.0) > File.new(5.0, 0.0)


def test_a_file_is_one_line_of_json_and_the_body() -> None:
    content = file_of(Outgoing(b"\x00\nbody", {"a": "ž\n"}, "id", "k"))
    assert content == '{"key":"k","headers":{"a":"ž\\n"}}\n'.encode() + b"\x00\nbody"
    delivery = delivery_of(content, FILE, Epoch(), "orders")
    assert (delivery.body, delivery.headers, delivery.key, delivery.error) == (b"\x00\nbody", {"a": "ž\n"}, "k", "")
    assert (delivery.count, delivery.position) == (2, "orders/01700000000000000000-abcd")


@pytest.mark.parametrize("content", [b"", b"plain text", b"\xff\n", b"[]\nbody", b'{"headers": {"a": 1}}\n'])
def test_a_file_of_somebody_else_is_handed_over_with_the_reason(content: bytes) -> None:
    delivery = delivery_of(content, FILE, Epoch(), "orders")
    assert delivery.body == content
    assert delivery.error


def test_errors_are_classified() -> None:
    numbers = {errno.ENOSPC: Fault.TRANSIENT, errno.EROFS: Fault.CONFIG, errno.ENOENT: Fault.LOST}
    for number, fault in numbers.items():
        assert translated(fault_of, OSError(number, "")).fault is fault
    assert translated(fault_of, ZeroDivisionError()).fault is Fault.LOST


@pytest.mark.parametrize("wrong", [{"path": ""}, {"lease": 0.1}, {"poll": 0.0}])
def test_what_cannot_be_meant_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DirectoryConfig(**wrong)  # type: ignore[arg-type]  # on purpose
