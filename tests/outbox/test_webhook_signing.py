"""Signatures that receivers check with the specification's own library."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from tallystick.outbox.webhooks.signing import new_secret, signature


def headers(keys: list[str], body: bytes) -> dict[str, str]:
    now = int(time.time())
    return {
        "webhook-id": "an-id",
        "webhook-timestamp": str(now),
        "webhook-signature": signature(keys, "an-id", now, body),
    }


def test_a_secret_is_of_the_specified_form_and_new() -> None:
    one, other = new_secret(), new_secret()
    assert one != other
    for secret in (one, other):
        assert secret.startswith("whsec_")
        assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64


def test_the_example_of_the_specification() -> None:
    """Of https://github.com/standard-webhooks/standard-webhooks, the libraries' common test vector."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # pragma: allowlist secret
    signed = signature([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.binary(max_size=200).map(lambda data: data.hex().encode()))
def test_the_specifications_library_accepts_it(body: bytes) -> None:
    secret = new_secret()
    Webhook(secret).verify(body, headers([secret], body), json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b"0", headers([secret], body), json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(body, headers([secret], body), json_parse=False)


def test_during_a_rotation_either_secret_will_do() -> None:
    new, old = new_secret(), new_secret()
    for secret in (new, old):
        Webhook(secret).verify(b"{}", headers([new, old], b"{}"))
