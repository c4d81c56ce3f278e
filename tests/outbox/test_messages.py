"""What subscribers receive, to the byte where it matters to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cloudevents.core.bindings.amqp import AMQPMessage, from_amqp_event

from tallystick.kernel.errors import InvalidInput
from tallystick.outbox.address import Address, check_broker_url
from tallystick.outbox.catalogue import CATALOGUE
from tallystick.outbox.messages import messages
from tallystick.service import broker_of
from tallystick.settings import Settings
from tests.outbox.events import AT, event, subject

ID = "5f0c7d1e-7b43-4c0a-9f0e-3d1f5b8a2c61"


def sent(kind: str, *, vip: bool) -> dict[str, tuple[str, bytes]]:
    """Routing key and body by exchange."""
    told = replace(event(1, subject(region="apac", vip=vip), id=ID), type=kind)
    return {message.exchange: (message.routing_key, message.body) for message in messages(told)}


@pytest.mark.parametrize(
    ("kind", "vip", "key"),
    [
        ("account.created", True, "create.account.apac.vip"),
        ("account.created", False, "create.account.apac.standard"),
        ("account.deleted", True, "delete.account.apac.vip"),
        ("account.deleted", False, "delete.account.apac.standard"),
        ("agent.created", True, "create.agent.apac"),
        ("agent.deleted", False, "delete.agent.apac"),
        ("agent.blocked", True, "block.agent.apac"),
        ("agent.unblocked", False, "unblock.agent.apac"),
    ],
)
def test_the_original_exchange_gets_its_routing_keys_and_bare_ids(kind: str, vip: bool, key: str) -> None:
    assert sent(kind, vip=vip)["topic_customers"] == (key, ID.encode())


@pytest.mark.parametrize("kind", ["account.changed", "agent.changed", "something.new"])
def test_the_original_exchange_gets_nothing_that_it_never_had(kind: str) -> None:
    assert set(sent(kind, vip=True)) == {"tallystick.events"}


@pytest.mark.parametrize("kind", CATALOGUE)
def test_every_event_is_routed_by_type_region_and_standing(kind: str) -> None:
    assert sent(kind, vip=True)["tallystick.events"][0] == f"{kind}.apac.vip"
    assert sent(kind, vip=False)["tallystick.events"][0] == f"{kind}.apac.standard"


def test_the_sdk_reads_our_cloud_events() -> None:
    (message,) = messages(event(1, subject(7, region="emea", vip=True), name="größer 𝄞"))
    read = from_amqp_event(AMQPMessage({"content-type": message.content_type}, {}, message.body))
    assert read.get_attributes() == {
        "specversion": "1.0",
        "id": "00000000-0000-0000-0000-000000000001",
        "source": "/tallystick",
        "type": "tallystick.account.changed",
        "time": AT,
        "subject": "customer-7",
        "region": "emea",
        "vip": True,
        "datacontenttype": "application/json",
    }
    assert read.get_data() == {"name": "größer 𝄞"}


def test_the_pause_grows_with_each_failure_up_to_a_limit() -> None:
    address = Address("amqp://localhost", retries=3, timeout_seconds=2)
    assert [address.pause_seconds(failures) for failures in (1, 2, 3, 4, 1000)] == [2, 4, 6, 6, 6]


@pytest.mark.parametrize("url", ["", "localhost", "http://localhost", "amqp://", "amqp://host:port", "amqp://[::1"])
def test_what_is_no_url_of_a_broker(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"^it must be a URL"):
        check_broker_url(url)


def test_the_url_of_a_broker_is_not_shown() -> None:
    url = check_broker_url("amqps://user:swordfish@broker.example/vhost")  # pragma: allowlist secret
    assert "swordfish" not in repr(Address(url, 1, 1))
    with pytest.raises(InvalidInput) as refused:
        check_broker_url("http://user:swordfish@broker.example")  # pragma: allowlist secret
    assert "swordfish" not in refused.value.detail


def test_whoever_wants_events_must_name_a_broker() -> None:
    with pytest.raises(InvalidInput, match=r"^TALLY_ENABLE_EVENTS needs TALLY_CLOUDAMQP_URL too$"):
        broker_of(Settings(enable_events=True, broker_url=None))
    assert broker_of(Settings(enable_events=False, broker_url="amqp://broker.example")) is None
