"""Any line: what was written is read, and whatever comes is accounted for."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st
from influxdb_client.client.write.point import Point

from tallystick.kernel.errors import TooLarge
from tallystick.metering.sources.line_protocol import read
from tests.metering.sources.batches import only_measurement
from tests.metering.sources.lines import ANY, EPOCH, NOW, read_text


def escaped(text: str, ends: str) -> str:
    return re.sub(f"([{ends}])", r"\\\1", text)


def written(measurement: str, tags: dict[str, str], note: str, value: str, timestamp: int | str) -> str:
    """A point as the protocol wants it written."""
    key = escaped(measurement, ", ")
    for name, text in tags.items():
        key += f",{escaped(name, ',= ')}={escaped(text, ',= ')}"
    string = note.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key} note="{string}",value={value} {timestamp}'


# The protocol cannot write a name that ends in a backslash, holds a line end, or begins a line with a blank or a "#".
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0\n") | st.sampled_from('\\"=, #\t')
texts = st.text(characters, min_size=1, max_size=20).filter(lambda text: bool(text.strip()) and not text.endswith("\\"))
measurements = texts.filter(lambda text: text[0] not in "#\t\r")
notes = st.text(characters | st.just("\n"), max_size=20)
numbers = st.decimals(-(10**17), 10**17, allow_nan=False, allow_infinity=False, places=12).map(str)
timestamps = st.integers(-62104060800 * 10**9, 253339228799 * 10**9)
points = st.builds(
    lambda measurement, tags, customer, *rest: (measurement, tags | {"c": customer}, *rest),
    measurements,
    st.dictionaries(texts, texts, max_size=3),
    texts,
    notes,
    numbers | st.integers(-(10**17), 10**17).map("{}i".format) | st.integers(0, 10**17).map("{}u".format),
    timestamps,
)


@given(st.lists(points, max_size=5))
def test_what_was_written_is_read(sent: list[tuple[str, dict[str, str], str, str, int]]):
    lines = [written(*point) for point in sent]
    batch = read_text("\n".join(lines))
    assert batch.unreadable == []
    assert batch.indexes == [sum(line.count("\n") + 1 for line in lines[:number]) for number in range(len(lines))]
    for (measurement, tags, _, value, timestamp), read_back in zip(sent, batch.measurements, strict=True):
        assert read_back.meter == measurement
        assert read_back.customer == tags["c"]
        assert read_back.kind == tags.get("kind", "")
        assert read_back.value == Decimal(value.rstrip("iu"))
        assert read_back.at == EPOCH + timedelta(microseconds=timestamp // 1000)
        key = written(measurement, dict(sorted(tags.items())), "", "1", "").partition(" note=")[0]
        assert read_back.sender_id == f"{key} {timestamp}" or len(key) > 400


@given(measurements, st.dictionaries(texts, texts, max_size=3), notes, st.integers(-(2**53), 2**53), timestamps)
def test_what_the_official_client_writes_is_read(
    measurement: str, tags: dict[str, str], note: str, value: int, timestamp: int
):
    def plain(text: str) -> str:  # the client writes other control characters as escapes of its own
        return re.sub(r"[\t\r\n]", "", text) or "x"

    tags = {plain(name): plain(text) for name, text in tags.items()} | {"c": "a b,c=d"}
    point = Point(plain(measurement)).time(timestamp).field("value", value).field("note", note)
    for name, text in tags.items():
        point = point.tag(name, text)
    read_back = only_measurement(read_text(point.to_line_protocol()))
    assert (read_back.meter, read_back.customer, read_back.value) == (plain(measurement), "a b,c=d", Decimal(value))


plain_texts = st.text(st.sampled_from("ab#'é😀\t-"), min_size=1, max_size=4).filter(lambda text: bool(text.strip()))


@given(plain_texts, st.dictionaries(plain_texts, plain_texts, max_size=4), plain_texts, numbers, timestamps)
def test_splitting_and_parsing_read_the_same(
    measurement: str, tags: dict[str, str], customer: str, value: str, timestamp: int
):
    key = "".join([f"m{measurement}", *(f",{name}={text}" for name, text in (tags | {"c": customer}).items())])
    split = only_measurement(read_text(f"{key} value={value} {timestamp}"))
    parsed = only_measurement(read_text(f'{key},d=\\\\x a="\\"\n",value={value},z=t {timestamp}'))
    assert parsed.sender_id.replace(",d=\\\\x", "") == split.sender_id
    assert (parsed.meter, parsed.customer, parsed.at) == (split.meter, split.customer, split.at)
    assert repr(parsed.value) == repr(split.value)


tokens = st.sampled_from(
    ["m", ",c=x", ",a=", " ", "value=", "1", '"', "\\", "=", ",", "\n", "#", "i", "\t", "\r", " value=1", "\0", "é"]
)
soup = st.lists(tokens, max_size=30).map("".join).map(str.encode) | st.binary()


@given(soup, st.integers(1, 40))
@example(b'm,c=x value="\n#"\n', 5)
@example(b'm,c=x s="\\', 5)
def test_every_line_is_accounted_for_and_nothing_but_too_large_is_raised(body: bytes, max_lines: int):
    try:
        batch = read(body, NOW, mapping=ANY, max_lines=max_lines)
    except TooLarge:
        assert body.count(b"\n") + 1 > max_lines
        return
    assert len(batch.measurements) == len(batch.indexes)
    taken = {*batch.indexes, *(item.index for item in batch.unreadable)}
    assert len(taken) == len(batch.measurements) + len(batch.unreadable)
    for index, line in enumerate(body.split(b"\n")):
        text = line.strip(b" \t\r")
        assert b'"' in body or not text or text.startswith(b"#") or index in taken
    for item in batch.unreadable:
        assert item.raw in body


@given(
    st.lists(
        st.sampled_from(["m,c=x value=1", "m,c=x value=x", "m value=1", '"', 'm,c=x value="', "\xff,", "x y z"]),
        max_size=8,
    )
)
def test_as_many_lines_come_out_as_went_in(lines: list[str]):
    batch = read("\n".join(lines).encode("latin1"), NOW, mapping=ANY)
    spanned = sum(item.raw.count(b"\n") for item in batch.unreadable)
    assert len(batch.measurements) + len(batch.unreadable) + spanned == len(lines)
