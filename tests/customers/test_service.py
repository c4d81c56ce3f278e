from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from tallystick.customers.model import Customer, NewCustomer
from tallystick.customers.service import Customers
from tallystick.database.pool import Connection, Pool
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, TallyError
from tallystick.ledger.wallets import Payer


async def number_of(conn: Connection) -> int:
    (count,) = await (await conn.execute("select count(*) from customers")).fetchone() or (0,)
    return int(count)


# Creating


async def test_a_customer_is_created_with_all_that_was_said(
    conn: Connection, customers: Customers, clock: TestClock
) -> None:
    await customers.create(conn, NewCustomer("org"))
    clock.advance(timedelta(hours=1))
    asked = NewCustomer("p1", "Project 1", "Ops@Example.org", parent="org", payer="org", credit_policy="prepaid")
    made = await customers.create(conn, asked)
    assert made == Customer(
        made.id, "p1", "Project 1", "Ops@Example.org", "org", "org", "prepaid", "immediate", "nam", False, clock.now()
    )
    assert made.id.version == 7
    assert await customers.get(conn, "p1") == made


async def test_what_is_left_out_stays_empty_and_postpaid(
    conn: Connection, customers: Customers, clock: TestClock
) -> None:
    made = await customers.create(conn, NewCustomer(" größer 𝄞 "))
    assert made == Customer(
        made.id, " größer 𝄞 ", None, None, None, None, "postpaid", "immediate", "nam", False, clock.now()
    )


@pytest.mark.parametrize(
    ("new", "field", "code"),
    [
        (NewCustomer(""), "key", "text_empty"),
        (NewCustomer("k" * 257), "key", "text_too_long"),
        (NewCustomer("a\0b"), "key", "text_not_storable"),
        (NewCustomer("\ud800"), "key", "text_not_storable"),
        (NewCustomer("a", name="n" * 10_000), "name", "text_too_long"),
        (NewCustomer("a", email=""), "email", "text_empty"),
        (NewCustomer("a", email="nobody"), "email", "invalid_input"),
        (NewCustomer("a", email="a b@example.org"), "email", "invalid_input"),
        (NewCustomer("a", email="a@example.org\nb@example.org"), "email", "invalid_input"),
        (NewCustomer("a", parent="nobody"), "parent", "invalid_input"),
        (NewCustomer("a", parent="a"), "parent", "invalid_input"),
        (NewCustomer("a", payer="nobody"), "payer", "invalid_input"),
        (NewCustomer("a", payer=""), "payer", "text_empty"),
    ],
)
async def test_a_field_that_breaks_its_rule_is_named(
    conn: Connection, customers: Customers, new: NewCustomer, field: str, code: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await customers.create(conn, new)
    assert (refused.value.field, refused.value.code) == (field, code)
    assert str(refused.value).startswith(field)
    assert await number_of(conn) == 0


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (NewCustomer("taken"), "key"),
        (NewCustomer("taken", email="other@example.org"), "key"),
        (NewCustomer("other", email="a@example.org"), "email"),
        (NewCustomer("other", email="A@EXAMPLE.ORG"), "email"),
        (NewCustomer("taken", email="a@example.org"), "email"),
    ],
)
async def test_key_and_email_are_taken_once(
    conn: Connection, customers: Customers, new: NewCustomer, field: str
) -> None:
    await customers.create(conn, NewCustomer("taken", email="a@example.org"))
    with pytest.raises(Conflict) as refused:
        await customers.create(conn, new)
    assert refused.value.field == field
    assert await number_of(conn) == 1


async def test_keys_differ_by_every_character(conn: Connection, customers: Customers) -> None:
    keys = ["a", "A", "a ", " a", "ä", "a\u0308"]
    for key in keys:
        await customers.create(conn, NewCustomer(key))
    assert {(await customers.get(conn, key)).key for key in keys} == set(keys)


# Finding


async def test_a_customer_that_does_not_exist_is_not_found(conn: Connection, customers: Customers) -> None:
    with pytest.raises(NotFound, match=r"^there is no customer 'nobody'$"):
        await customers.get(conn, "nobody")


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", "k" * 10_000])
async def test_a_key_that_cannot_exist_is_refused(conn: Connection, customers: Customers, key: str) -> None:
    with pytest.raises(TallyError) as refused:
        await customers.get(conn, key)
    assert refused.value.field == "key"


async def test_a_payer_pays_for_itself(conn: Connection, customers: Customers) -> None:
    await customers.create(conn, NewCustomer("org"))
    await customers.create(conn, NewCustomer("p1", payer="org"))
    with pytest.raises(InvalidInput, match="payer must pay for itself, which 'p1' does not"):
        await customers.create(conn, NewCustomer("p2", payer="p1"))
    assert await customers.find(conn, ["p2"]) == {}


async def test_who_pays_is_the_payer_under_its_own_policy(conn: Connection, customers: Customers) -> None:
    org = await customers.create(conn, NewCustomer("org", credit_policy="prepaid"))
    project = await customers.create(conn, NewCustomer("p1", payer="org"))
    assert await customers.find(conn, ["org", "p1", "nobody"]) == {
        "org": (org.id, Payer(org.id, "prepaid")),
        "p1": (project.id, Payer(org.id, "prepaid")),
    }


async def test_pages_show_each_customer_once_while_others_are_added(conn: Connection, customers: Customers) -> None:
    for number in range(7):
        await customers.create(conn, NewCustomer(f"c{number}"))
    first = await customers.page(conn, None, 3)
    await customers.create(conn, NewCustomer("c0-new"))  # before the place that was reached
    await customers.create(conn, NewCustomer("c5-new"))  # after it
    second = await customers.page(conn, first.next, 3)
    third = await customers.page(conn, second.next, 3)
    pages = [[customer.key for customer in page.items] for page in (first, second, third)]
    assert pages == [["c0", "c1", "c2"], ["c3", "c4", "c5"], ["c5-new", "c6"]]
    assert third.next is None


async def test_a_full_last_page_has_no_next(conn: Connection, customers: Customers) -> None:
    assert (await customers.page(conn, None, 2)).items == []
    for key in ("a", "b"):
        await customers.create(conn, NewCustomer(key))
    page = await customers.page(conn, None, 2)
    assert [customer.key for customer in page.items] == ["a", "b"]
    assert page.next is None


async def test_pages_refuse_a_cursor_of_somewhere_else(conn: Connection, customers: Customers) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        await customers.page(conn, "nonsense", 2)


# Created by usage, and opened by instruction


async def test_usage_creates_who_is_missing_and_leaves_the_others_alone(
    conn: Connection, customers: Customers, clock: TestClock
) -> None:
    known = await customers.create(conn, NewCustomer("known", name="Known", credit_policy="prepaid"))
    clock.advance(timedelta(days=1))
    found = await customers.ensure(conn, ["new", "known", "new"], "postpaid")
    assert set(found) == {"new", "known"}
    assert found["known"] == (known.id, Payer(known.id, "prepaid"))
    made = await customers.get(conn, "new")
    assert found["new"] == (made.id, Payer(made.id, "postpaid"))
    assert made.created_at == clock.now()
    assert await customers.get(conn, "known") == known
    assert await customers.ensure(conn, ["known", "new"], "prepaid") == found


async def test_two_transactions_that_create_the_same_customers_agree(pool: Pool, customers: Customers) -> None:
    """Both create in the order of keys, so neither waits for the other in a circle."""
    keys = [f"c{number}" for number in range(50)]

    async def ensure(order: list[str]) -> dict[str, tuple[UUID, Payer]]:
        async with pool.connection() as conn, conn.transaction():
            return await customers.ensure(conn, order, "postpaid")

    answers = await asyncio.gather(*(ensure(order) for order in (keys, keys[::-1], keys[25:] + keys[:25], keys[::-1])))
    assert all(answer == answers[0] for answer in answers)
    async with pool.connection() as conn:
        assert await number_of(conn) == 50


async def test_opening_takes_ids_and_says_who_was_opened(conn: Connection, customers: Customers) -> None:
    known = await customers.create(conn, NewCustomer("known"))
    one, two, late = UUID(int=1), UUID(int=2), UUID(int=3)
    opened = await customers.open(conn, [(two, "b", "postpaid"), (one, "a", "prepaid"), (late, "known", "prepaid")])
    assert opened == {one: Payer(one, "prepaid"), two: Payer(two, "postpaid")}
    assert (await customers.get(conn, "a")).id == one
    assert (await customers.get(conn, "b")).credit_policy == "postpaid"
    assert await customers.get(conn, "known") == known


async def test_opening_again_answers_the_same(conn: Connection, customers: Customers) -> None:
    one = (UUID(int=1), "a", "prepaid")
    first = await customers.open(conn, [(UUID(int=1), "a", "prepaid")])
    assert await customers.open(conn, [(UUID(int=1), "a", "prepaid")]) == first == {one[0]: Payer(one[0], "prepaid")}
    assert await customers.open(conn, [(UUID(int=2), "a", "prepaid")]) == {}
    assert await customers.open(conn, []) == {}


async def test_of_two_who_open_one_key_together_one_does(conn: Connection, customers: Customers) -> None:
    opened = await customers.open(conn, [(UUID(int=1), "a", "prepaid"), (UUID(int=2), "a", "prepaid")])
    assert list(opened) == [(await customers.get(conn, "a")).id]
