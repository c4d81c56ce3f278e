"""What a reading is, what becomes of the items of a sweep, and how two attempts at one reading become one. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.ids import derived_id
from tallystick.kernel.text import MAX_TEXT_CHARACTERS, check_key, check_text, is_unicode
from tallystick.metering.model import Measurement, Unreadable
from tallystick.metering.paths import check_path
from tallystick.metering.resources import Placement
from tallystick.metering.sources.sweep import Failure, Item, Sweep
from tallystick.metering.sources.values import EARLIEST, check_value

READER = "measurement"
"""Who reads an item again that stands in quarantine: it is kept as the measurement that it would have become."""

MAX_FAILURES = 100
MAX_FAULTS = 100
"""So many are kept of one reading. The counts cover all of them."""

MAX_DETAIL_CHARACTERS = 1000

State = Literal["running", "complete", "partial", "failed"]

_PREFIX = "reading:"
_WORTH: dict[State, int] = {"running": 0, "failed": 1, "partial": 2, "complete": 3}


class Counts(msgspec.Struct, frozen=True):
    """What became of the items of one meter: ``items`` = ``recorded`` + ``repeated`` + ``quarantined``.

    ``recorded``: stand as measurements, whichever attempt recorded them. ``repeated``: the sweep had named their
    resource already, which counts once. ``without_customer``: are among those in quarantine. ``unpriced``: had no price
    when they were recorded. ``faults``: the source found something missing.
    """

    items: int = 0
    recorded: int = 0
    repeated: int = 0
    quarantined: int = 0
    without_customer: int = 0
    unpriced: int = 0
    faults: int = 0


class Fault(msgspec.Struct, frozen=True):
    """What a source found missing of one item."""

    meter: str
    resource: str
    detail: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt at a reading ended. ``counts`` are by meter, whole under the name "" if a meter has none."""

    state: State
    counts: dict[str, Counts]
    failures: list[Failure]
    faults: list[Fault]


@dataclass(frozen=True, slots=True)
class Reading:
    """One sweep of a source.

    ``interval_start`` is None for a manual one. ``running``: the first attempt has not ended, or its process died.
    ``complete``: all parts of the source were read. ``partial``: some were not, and what was read stands. ``failed``:
    nothing was read. Any but a complete one may be taken again within its interval.
    """

    id: UUID
    source: str
    interval_start: datetime | None
    at: datetime
    state: State
    attempts: int
    ended_at: datetime | None
    counts: dict[str, Counts]
    failures: list[Failure]
    faults: list[Fault]

    @property
    def total(self) -> Counts:
        """The counts of all meters together."""
        return _sum(list(self.counts.values()))

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.state, self.counts, self.failures, self.faults)


@dataclass(slots=True)
class Sorted:
    """The items of one meter, as intake takes them, and how many of them are what."""

    measurements: list[Measurement] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    placements: list[tuple[str, Placement]] = field(default_factory=list)
    items: int = 0
    repeated: int = 0
    without_customer: int = 0
    faults: int = 0

    @property
    def counts(self) -> Counts:
        """The counts before intake has said what became of them."""
        return Counts(
            items=self.items,
            repeated=self.repeated,
            without_customer=self.without_customer,
            faults=self.faults,
        )


def reading_of(row: Sequence[Any]) -> Reading:
    """A row of the table."""
    reading_id, source, interval_start, at, state, attempts, ended_at, counts, failures, faults = row
    return Reading(
        reading_id,
        source,
        interval_start,
        at,
        state,
        attempts,
        ended_at,
        msgspec.json.decode(counts, type=dict[str, Counts]),
        msgspec.json.decode(failures, type=list[Failure]),
        msgspec.json.decode(faults, type=list[Fault]),
    )


def interval_of(at: datetime, interval: timedelta) -> datetime:
    """When the interval began in which ``at`` lies. All of them are counted from the year 2 on, in UTC."""
    return at - (at - EARLIEST) % interval


def source_of(key: str) -> str:
    """The name that measurements of a source's readings have as theirs."""
    return f"{_PREFIX}{key}"


def key_of_source(name: str) -> str | None:
    """The source of readings whose measurements have this name as theirs; None if it is the name of something else."""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None


def sort_items(reading: Reading, items: Sequence[Item]) -> tuple[dict[str, Sorted], list[Fault]]:
    """The items by meter: those that can be measured, and those that cannot, which are kept with the reason.

    A resource that is named twice counts once, with what was said first. With them, the first of the faults.
    """
    meters: dict[str, Sorted] = {}
    faults: list[Fault] = []
    seen: set[UUID] = set()
    for index, item in enumerate(items):
        if (into := meters.get(item.meter)) is None:
            into = meters.setdefault(item.meter if _is_storable(item.meter) else "", Sorted())
        into.items += 1
        misplaced = None if item.path is None else _path_fault(item.path)
        if (fault := item.fault or misplaced) is not None:
            into.faults += 1
            if len(faults) < MAX_FAULTS:
                faults.append(Fault(_clean(item.meter), _clean(item.resource), _clean(fault)))
        name = _name(item)
        if name in seen:
            into.repeated += 1
            continue
        seen.add(name)
        _sort(into, item, index, _measurement(reading, item, name), has_place=misplaced is None)
    return meters, faults


def customer_names(sweep: Sweep) -> dict[str, str]:
    """What the source calls customers, by key; of a name as much as can be kept."""
    names = {key: _label(name) for key, name in sweep.customers.items() if _is_storable(key)}
    return {key: name for key, name in names.items() if name is not None}


def outcome_of(sweep: Sweep, counts: dict[str, Counts], faults: list[Fault]) -> Outcome:
    """How an attempt ended that found ``sweep`` and made this of its items."""
    state: State = "complete" if not sweep.failures else "partial" if sweep.items else "failed"
    failures = [Failure(_clean(failure.part), _clean(failure.detail)) for failure in sweep.failures[:MAX_FAILURES]]
    return Outcome(state, counts, failures, faults)


def merged(before: Outcome, now: Outcome) -> Outcome:
    """What two attempts at one reading come to.

    Both have recorded what they read, so a part failed only if it did in both; the worse never replaces the better.
    """
    if before.state == "complete" or _WORTH[now.state] < _WORTH[before.state]:
        return before
    if before.state != "partial":
        return now
    failed_before = {failure.part for failure in before.failures}
    failures = [failure for failure in now.failures if failure.part in failed_before]
    counts = dict(before.counts)
    for meter, new in now.counts.items():
        counts[meter] = _merged_counts(before.counts.get(meter, Counts()), new)
    faults = list(dict.fromkeys([*now.faults, *before.faults]))[:MAX_FAULTS]
    return Outcome("partial" if failures else "complete", counts, failures, faults)


def _merged_counts(before: Counts, now: Counts) -> Counts:
    """The attempt that read more speaks for both; what had no price was new to either, so it adds up."""
    more = now if now.items >= before.items else before
    return msgspec.structs.replace(more, unpriced=before.unpriced + now.unpriced)


def with_receipt(counts: Counts, *, recorded: int, unpriced: int, quarantined: int) -> Counts:
    """The counts once intake has said what became of some items."""
    return msgspec.structs.replace(
        counts,
        recorded=counts.recorded + recorded,
        unpriced=counts.unpriced + unpriced,
        quarantined=counts.quarantined + quarantined,
    )


def chunks(sorted_items: Sorted, size: int) -> Iterator[Sorted]:
    """Its measurements, then what is unreadable, in portions."""
    for start in range(0, len(sorted_items.measurements), size):
        end = start + size
        yield Sorted(sorted_items.measurements[start:end], sorted_items.indexes[start:end])
    for start in range(0, len(sorted_items.unreadable), size):
        yield Sorted(unreadable=sorted_items.unreadable[start : start + size])


def _name(item: Item) -> UUID:
    """What names an item within its reading, for a customer: its resource or, without one, its kind."""
    parts = (item.meter, item.resource) if item.resource else (item.meter, "", item.kind, item.customer or "")
    return derived_id("item", *(part.encode(errors="surrogatepass") for part in parts))


def _measurement(reading: Reading, item: Item, name: UUID) -> Measurement:
    """Named by its interval, so that it counts once however often that is read; in a manual reading, by that."""
    interval = reading.interval_start
    within = str(reading.id) if interval is None else f"{interval:%Y-%m-%dT%H:%M:%SZ}"
    return Measurement(
        source=source_of(reading.source),
        sender_id=f"{within}/{name.hex}",
        customer=item.customer or "",
        meter=item.meter,
        at=reading.at,
        value=item.value,
        kind=item.kind,
        resource=item.resource,
    )


def _sort(into: Sorted, item: Item, index: int, measurement: Measurement, *, has_place: bool) -> None:
    try:
        checked = _checked(measurement)
        if item.customer is None:
            into.without_customer += 1
            into.unreadable.append(_unreadable(index, measurement, "no_customer", _no_customer(item.fault)))
            return
        check_key(item.customer, "customer")
    except InvalidInput as error:
        into.unreadable.append(_unreadable(index, measurement, error.code, error.detail))
        return
    into.measurements.append(checked)
    into.indexes.append(index)
    if item.path is not None and has_place:
        into.placements.append((item.customer, Placement(item.meter, item.resource, item.path, _label(item.name))))


def _checked(measurement: Measurement) -> Measurement:
    check_key(measurement.meter, "meter")
    check_text(measurement.kind, "kind")
    check_text(measurement.resource, "resource")
    value = check_value(measurement.value)
    return measurement if value is measurement.value else msgspec.structs.replace(measurement, value=value)


def _no_customer(fault: str | None) -> str:
    reason = f" ({_clean(fault)})" if fault else ""
    return f"the source knows no customer of this{reason}: write its key into the piece, then replay"


def _unreadable(index: int, measurement: Measurement, code: str, detail: str) -> Unreadable:
    if not all(map(is_unicode, (measurement.customer, measurement.meter, measurement.kind, measurement.resource))):
        measurement = msgspec.structs.replace(
            measurement,
            customer=_clean(measurement.customer),
            meter=_clean(measurement.meter),
            kind=_clean(measurement.kind),
            resource=_clean(measurement.resource),
        )
    return Unreadable(index, msgspec.json.encode(measurement), code, detail, reader=READER)


def _path_fault(path: str) -> str | None:
    """Why a resource cannot stand there. It is measured all the same."""
    try:
        check_path(path, "path")
    except InvalidInput as error:
        return error.detail
    return None


def _is_storable(text: str) -> bool:
    return "\0" not in text and is_unicode(text)


def _clean(text: str) -> str:
    """As much of a source's text as can be kept."""
    return text.replace("\0", "").encode(errors="replace").decode()[:MAX_DETAIL_CHARACTERS]


def _label(name: str | None) -> str | None:
    """As much of a name as can be kept, if there is anything of it."""
    return None if name is None else _clean(name)[:MAX_TEXT_CHARACTERS] or None


def _sum(counts: list[Counts]) -> Counts:
    return Counts(**{name: sum(getattr(each, name) for each in counts) for name in Counts.__struct_fields__})
