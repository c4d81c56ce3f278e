"""The desk: whatever is ordered under a key happens once and is answered the same for good, whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import pytest

from tallystick.billing.instructions import CustomerExists, UnknownCustomer
from tallystick.database.pool import Connection, Pool
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, Overloaded, TallyError, TooLarge, Unavailable
from tallystick.kernel.ids import new_id
from tallystick.ledger.contract import LedgerRefusal
from tallystick.ledger.desk import MAX_GROUP, MAX_QUEUED, Answer, Desk, Order, errors_by_code, fingerprint
from tallystick.ledger.wallets import InsufficientCredits

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)

SomeDesk = TypeVar("SomeDesk", bound=Desk)
Outcome = dict[str, Any] | BaseException


@dataclass(frozen=True, slots=True)
class Entry:
    """An order: to write ``text`` down, which must not be written down before."""

    text: str
    idempotency_key: str | None = None
    type: str = "write"
    id: UUID = field(default_factory=lambda: new_id(NOW))

    @property
    def fingerprint(self) -> bytes:
        return fingerprint(self.type, self.text)


@dataclass
class Book:
    """Carries out ``write`` (and whatever else is registered for it); what it wrote stands in the table ``book``."""

    groups: list[list[str]] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    """How often to fail while carrying out an order of this text."""
    error: BaseException = field(default_factory=lambda: RuntimeError("broken"))

    async def write(self, conn: Connection, orders: Sequence[Entry]) -> list[Answer]:
        self.groups.append([order.text for order in orders])
        answers: list[Answer] = []
        for order in orders:
            query = "insert into book (id, type, text) values (%s, %s, %s) on conflict do nothing returning number"
            row = await (await conn.execute(query, [order.id, order.type, order.text])).fetchone()
            known = "select number from book where id = %s"
            row = row or await (await conn.execute(known, [order.id])).fetchone()
            if self.broken[order.text]:
                self.broken[order.text] -= 1
                raise self.error
            answers.append({"number": row[0]} if row else UnknownCustomer(f"{order.text!r} stands there", field="text"))
        return answers


@pytest.fixture
async def book(pool: Pool) -> Book:
    """Empty, on this test's own database."""
    async with pool.connection() as conn:
        await conn.execute(
            "create table book (number integer generated always as identity, id uuid primary key, type text,"
            " text text unique)"
        )
    return Book()


def desk_on(pool: Pool, kind: type[SomeDesk]) -> SomeDesk:
    return kind(pool, TestClock(NOW))


@asynccontextmanager
async def opened(desk: SomeDesk, book: Book) -> AsyncIterator[SomeDesk]:
    """A desk at which ``book`` carries out the orders."""
    desk.register(["write"], book.write)
    await desk.group.start()
    try:
        yield desk
    finally:
        await desk.group.stop()


@pytest.fixture
async def desk(pool: Pool, book: Book) -> AsyncIterator[Desk]:
    async with opened(desk_on(pool, Desk), book) as desk:
        yield desk


async def together(*orders: tuple[Desk, Entry]) -> list[Outcome]:
    """Hands all in at once; what each of them came to."""
    return await asyncio.gather(*(desk.carry_out(order) for desk, order in orders), return_exceptions=True)


async def refusal(desk: Desk, order: Entry) -> TallyError:
    with pytest.raises(TallyError) as refused:
        await desk.carry_out(order)
    return refused.value


async def written(pool: Pool) -> list[str]:
    async with pool.connection() as conn:
        return [text for (text,) in await (await conn.execute("select text from book order by number")).fetchall()]


async def kept(pool: Pool) -> list[str]:
    """The keys under which answers are kept."""
    async with pool.connection() as conn:
        return [
            key for (key,) in await (await conn.execute("select key from idempotency_keys order by key")).fetchall()
        ]


# Keys


async def test_without_a_key_every_order_is_another_one(desk: Desk, pool: Pool) -> None:
    assert await desk.carry_out(Entry("a")) == {"number": 1}
    assert await desk.carry_out(Entry("b")) == {"number": 2}
    assert await kept(pool) == []


async def test_a_key_gives_the_same_answer_for_good(desk: Desk, book: Book, pool: Pool) -> None:
    first = await desk.carry_out(Entry("a", "k"))
    await desk.carry_out(Entry("b"))
    assert await desk.carry_out(Entry("a", "k")) == first == {"number": 1}
    assert book.groups == [["a"], ["b"]]
    async with opened(desk_on(pool, Desk), book) as later:
        assert await later.carry_out(Entry("a", "k")) == first


async def test_a_key_gives_the_same_refusal_for_good(desk: Desk, pool: Pool) -> None:
    await desk.carry_out(Entry("a"))
    first = await refusal(desk, Entry("a", "k"))
    async with pool.connection() as conn:
        await conn.execute("delete from book")  # now it could be done
    again = await refusal(desk, Entry("a", "k"))
    assert [(type(e), str(e), e.field) for e in (first, again)] == [(UnknownCustomer, "'a' stands there", "text")] * 2
    assert await desk.carry_out(Entry("a")) is not None


ERRORS = [
    *(InsufficientCredits("no"), UnknownCustomer("no", field="key"), CustomerExists("no"), LedgerRefusal("no")),
    *(InvalidInput("no", field="amount"), NotFound("no"), Conflict("no"), TooLarge("no"), TallyError("no")),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_every_refusal_is_kept_as_it_was_given(pool: Pool, book: Book, error: TallyError) -> None:
    async def refuse(_conn: Connection, orders: Sequence[Entry]) -> list[Answer]:
        return [error] * len(orders)

    async with opened(desk_on(pool, Desk), book) as desk:
        desk.register(["refuse"], refuse)
        for _ in range(2):
            refused = await refusal(desk, Entry("a", "k", type="refuse"))
            assert (type(refused), str(refused), refused.field) == (type(error), str(error), error.field)


def test_a_kept_refusal_is_found_again_by_its_code() -> None:
    """Of errors that share a code, the one that all of them are."""

    def below(kind: type[TallyError]) -> Iterator[type[TallyError]]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    found = errors_by_code()
    kinds = [kind for kind in below(TallyError) if kind.__module__.startswith("tallystick")]
    assert len(kinds) > 8
    for kind in kinds:
        assert issubclass(kind, found[kind.code]), kind


@pytest.mark.parametrize("other", [{"text": "b"}, {"type": "other"}], ids=["other text", "other type"])
async def test_a_key_stands_for_one_request(desk: Desk, pool: Pool, other: dict[str, Any]) -> None:
    order = Entry("a", "k")
    await desk.carry_out(order)
    refused = await refusal(desk, replace(order, **other))
    assert (type(refused), refused.status) == (Conflict, 409)
    assert str(refused) == "Idempotency-Key was used for another request before"
    assert await desk.carry_out(order) == {"number": 1}
    assert await written(pool) == ["a"]


async def test_a_refused_request_keeps_its_key(desk: Desk) -> None:
    await desk.carry_out(Entry("a"))
    assert isinstance(await refusal(desk, Entry("a", "k")), UnknownCustomer)
    assert isinstance(await refusal(desk, Entry("b", "k")), Conflict)


async def test_answers_of_the_version_before_this_one_are_still_given(desk: Desk, pool: Pool) -> None:
    async with pool.connection() as conn:
        for key, answer in (("paid", '{"balance": "7"}'), ("refused", '{"error": "customer_exists", "detail": "no"}')):
            query = "insert into idempotency_keys values (%s, %s, %s, now())"
            await conn.execute(query, [key, Entry("a").fingerprint, answer])
    assert await desk.carry_out(Entry("a", "paid")) == {"balance": "7"}
    assert str(await refusal(desk, Entry("a", "refused"))) == "no"
    assert await written(pool) == []


# At once


async def test_a_key_used_many_times_at_once_is_carried_out_once(desk: Desk, book: Book) -> None:
    outcomes = await together(*((desk, Entry("a", "k")) for _ in range(50)))
    assert outcomes == [{"number": 1}] * 50
    assert book.groups == [["a"]]


async def test_of_two_requests_under_one_key_at_once_one_is_carried_out(desk: Desk, pool: Pool) -> None:
    outcomes = await together(*((desk, Entry(text, "k")) for text in "abab"))
    assert [outcome for outcome in outcomes if isinstance(outcome, dict)] == [{"number": 1}] * 2
    assert [type(outcome) for outcome in outcomes].count(Conflict) == 2
    assert len(await written(pool)) == 1


@pytest.mark.parametrize("texts", ["aa", "ab"], ids=["same request", "other request"])
async def test_two_services_that_find_a_key_new_at_the_same_time_carry_it_out_once(
    pool: Pool, book: Book, texts: str
) -> None:
    meeting = asyncio.Barrier(2)

    class Rival(Desk):
        """Goes on only when its rival, too, has looked the key up and found nothing; then they go their own ways."""

        async def _answered(self, *arguments: Any) -> Any:
            answers = await super()._answered(*arguments)
            try:
                await meeting.wait()
                await meeting.abort()
            except asyncio.BrokenBarrierError:
                pass
            return answers

    async with opened(desk_on(pool, Rival), book) as one, opened(desk_on(pool, Rival), book) as other:
        outcomes = await together((one, Entry(texts[0], "k")), (other, Entry(texts[1], "k")))
    answers = [outcome for outcome in outcomes if isinstance(outcome, dict)]
    assert len(answers) == (2 if texts == "aa" else 1)
    assert all(answer == answers[0] for answer in answers)
    assert {type(outcome) for outcome in outcomes} <= {dict, Conflict}
    assert len(await written(pool)) == 1


async def test_services_at_the_same_time_carry_out_every_key_once(pool: Pool, book: Book) -> None:
    async with AsyncExitStack() as desks:
        all_desks = [await desks.enter_async_context(opened(desk_on(pool, Desk), book)) for _ in range(3)]
        orders = [(desk, Entry(f"t{number}", f"k{number}")) for number in range(40) for desk in all_desks]
        outcomes = await together(*orders)
    for number in range(40):
        first, *others = outcomes[3 * number : 3 * number + 3]
        assert isinstance(first, dict)
        assert others == [first, first]
    assert sorted(await written(pool)) == sorted(f"t{number}" for number in range(40))


# When something dies


class DyingDesk(Desk):
    """Loses its connection after each of the next ``deaths`` commits."""

    deaths = 0

    async def _execute(self, orders: list[Order]) -> list[Answer]:
        answers = await super()._execute(orders)
        if self.deaths:
            self.deaths -= 1
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return answers


async def test_a_lost_answer_is_found_again(pool: Pool, book: Book) -> None:
    async with opened(desk_on(pool, DyingDesk), book) as desk:
        desk.deaths = 2
        outcomes = await together(*((desk, Entry(text, key)) for text, key in (("a", "k"), ("a", "k"), ("b", None))))
        assert outcomes == [{"number": 1}, {"number": 1}, {"number": 2}]
        assert book.groups == [["a", "b"], ["b"], ["b"]], "what has a key is not even tried again"
    assert await written(pool) == ["a", "b"]


async def test_what_is_refused_after_its_commit_was_answered_to_nobody_can_be_asked_again(
    pool: Pool, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service gives up on its database; whoever comes back with the key is told what had been done."""
    monkeypatch.setattr("tallystick.database.group_commit.FIRST_PAUSE_SECONDS", 0)
    async with opened(desk_on(pool, DyingDesk), book) as desk:
        desk.deaths = 6
        assert isinstance(await refusal(desk, Entry("a", "k")), Unavailable)
        assert await desk.carry_out(Entry("a", "k")) == {"number": 1}
    assert await written(pool) == ["a"]


async def test_what_dies_before_its_commit_leaves_nothing_and_is_done_again(desk: Desk, book: Book, pool: Pool) -> None:
    book.error = psycopg.OperationalError("server closed the connection unexpectedly")
    book.broken["a"] = 2
    assert await desk.carry_out(Entry("a", "k")) == {"number": 3}, "two numbers were given out in vain"
    assert await written(pool) == ["a"]


async def test_whoever_raises_harms_only_its_own_order(desk: Desk, book: Book, pool: Pool) -> None:
    book.broken["bad"] = 9
    outcomes = await together(*((desk, Entry(text, text)) for text in ("a", "bad", "b")))
    assert [type(outcome) for outcome in outcomes] == [dict, RuntimeError, dict]
    assert await written(pool) == ["a", "b"]
    assert await kept(pool) == ["a", "b"]


async def test_what_was_raised_is_no_answer_and_the_key_can_be_used_again(desk: Desk, book: Book) -> None:
    book.broken["a"] = 1
    with pytest.raises(RuntimeError):
        await desk.carry_out(Entry("a", "k"))
    assert await desk.carry_out(Entry("a", "k")) == {"number": 2}


# Types and limits


async def test_orders_of_a_group_go_to_their_handlers_in_the_order_of_registration(pool: Pool) -> None:
    seen: list[tuple[str, list[str]]] = []

    def handler(name: str) -> Any:
        async def handle(_conn: Connection, orders: Sequence[Entry]) -> list[Answer]:
            seen.append((name, [order.text for order in orders]))
            return [{"by": name, "text": order.text} for order in orders]

        return handle

    desk = Desk(pool, TestClock(NOW))
    desk.register(["open", "give"], handler("first"))
    desk.register(["take"], handler("second"))
    desk.register(["never"], handler("third"))
    orders = [Entry(f"{number}", type=type_) for number, type_ in enumerate(("take", "give", "take", "open"))]
    answers = await desk._execute(list(orders))
    assert seen == [("first", ["1", "3"]), ("second", ["0", "2"])]
    assert answers == [
        {"by": "second", "text": "0"},
        {"by": "first", "text": "1"},
        {"by": "second", "text": "2"},
        {"by": "first", "text": "3"},
    ]


async def test_one_transaction_carries_out_all_handlers_of_a_group(desk: Desk, book: Book, pool: Pool) -> None:
    """A later handler that raises takes back what an earlier one did; on its own, the earlier one's order stands."""

    async def break_down(_conn: Connection, _orders: Sequence[Entry]) -> list[Answer]:
        raise RuntimeError("broken")

    desk.register(["break"], break_down)
    with pytest.raises(RuntimeError):
        await desk._execute([Entry("a"), Entry("b", type="break")])
    assert await written(pool) == []
    outcomes = await together((desk, Entry("a")), (desk, Entry("b", type="break")))
    assert [type(outcome) for outcome in outcomes] == [dict, RuntimeError]
    assert await written(pool) == ["a"]


async def test_a_full_queue_refuses_and_loses_nothing_that_it_has_taken(pool: Pool) -> None:
    under_way, going = asyncio.Event(), asyncio.Event()
    sizes: list[int] = []

    async def wait(_conn: Connection, orders: Sequence[Entry]) -> list[Answer]:
        under_way.set()
        await going.wait()
        sizes.append(len(orders))
        return [{"text": order.text} for order in orders]

    async with opened(desk_on(pool, Desk), Book()) as desk:
        desk.register(["wait"], wait)
        first = asyncio.create_task(desk.carry_out(Entry("first", type="wait")))
        await under_way.wait()
        tasks = [asyncio.create_task(desk.carry_out(Entry(f"{n}", type="wait"))) for n in range(MAX_QUEUED)]
        await asyncio.sleep(0)  # each of them hands its order in
        assert desk.group.queued_weight == MAX_QUEUED
        refused = await refusal(desk, Entry("too many", type="wait"))
        assert (type(refused), str(refused), refused.status) == (Overloaded, "the desk queue is full", 429)
        going.set()
        answers = await asyncio.gather(first, *tasks)
    assert [answer["text"] for answer in answers] == ["first", *(f"{n}" for n in range(MAX_QUEUED))]
    assert sizes == [1] + [MAX_GROUP] * (MAX_QUEUED // MAX_GROUP)


async def test_a_stopped_desk_has_answered_everything_and_takes_nothing_more(pool: Pool, book: Book) -> None:
    async with opened(desk_on(pool, Desk), book) as desk:
        tasks = [asyncio.create_task(desk.carry_out(Entry(f"{n}"))) for n in range(20)]
        await asyncio.sleep(0)  # each of them hands its order in
        assert desk.group.queued_weight == 20
    assert sorted(answer["number"] for answer in await asyncio.gather(*tasks)) == list(range(1, 21))
    assert isinstance(await refusal(desk, Entry("late")), Unavailable)
