"""Tokens and keys by themselves: whose signature counts, and what a token must say."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tallystick.access.tokens import (
    ALGORITHMS,
    MAX_KEYS,
    MAX_TOKEN_CHARACTERS,
    InvalidToken,
    MissingToken,
    Terms,
    TokenRefused,
    UnreadableClaims,
    UnreadableDocument,
    customer_in,
    expiry_of,
    payload_of,
    read_keys,
    scopes_of,
    token_in,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
TERMS = Terms("https://issuer.example", "tally", timedelta(seconds=60))

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
BY_ALGORITHM = {**dict.fromkeys(ALGORITHMS, RSA), "ES256": P256, "ES384": P384, "EdDSA": ED25519}


def jwk(private: Any, **members: Any) -> dict[str, Any]:
    """The public key's JWK; members with the value ``None`` are left out."""
    writers = {"RSA": RSAAlgorithm.to_jwk, "EC": ECAlgorithm.to_jwk, "Ed": OKPAlgorithm.to_jwk}
    write: Any = next(write for start, write in writers.items() if start in type(private).__name__)
    written = {**write(private.public_key(), as_dict=True), "kid": "k", **members}
    return {name: value for name, value in written.items() if value is not None}


def key_set(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


def signed(private: Any, algorithm: str, payload: bytes = b"{}", **header: Any) -> str:
    return jwt.PyJWS().encode(payload, private, algorithm=algorithm, headers={"kid": "k", **header})


def unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def written(header: Any, payload: bytes = b"{}", signature: bytes = b"x") -> str:
    """A token that is only written, not signed."""
    return ".".join(unpadded(part) for part in (json.dumps(header).encode(), payload, signature))


# Signatures


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("says_algorithm", [True, False])
def test_every_allowed_algorithm_is_verified(algorithm: str, says_algorithm: bool) -> None:
    private = BY_ALGORITHM[algorithm]
    keys = read_keys(key_set(jwk(private, alg=algorithm if says_algorithm else None)))
    token = token_in(f"Bearer {signed(private, algorithm, b'payload')}")
    assert payload_of(token, keys) == b"payload"
    strangers = read_keys(key_set(jwk(OTHER_RSA)))
    assert payload_of(token, strangers) is None
    assert payload_of(token, ()) is None


def test_a_changed_token_is_nobodys() -> None:
    keys = read_keys(key_set(jwk(RSA)))
    head, _, signature = signed(RSA, "RS256", b'{"scope":[]}').split(".")
    other_payload = unpadded(b'{"scope":["usage.admin"]}')
    assert payload_of(token_in(f"Bearer {head}.{other_payload}.{signature}"), keys) is None
    other_head, same_payload, _ = written({"alg": "RS512", "kid": "k"}, b'{"scope":[]}').split(".")
    assert payload_of(token_in(f"Bearer {other_head}.{same_payload}.{signature}"), keys) is None


def test_a_key_is_used_for_its_own_algorithm_only() -> None:
    keys = read_keys(key_set(jwk(RSA, alg="RS512")))
    assert payload_of(token_in(f"Bearer {signed(RSA, 'RS512')}"), keys) == b"{}"
    for algorithm in ("RS256", "PS512"):
        assert payload_of(token_in(f"Bearer {signed(RSA, algorithm)}"), keys) is None


def test_the_key_that_a_token_names_must_have_signed_it() -> None:
    keys = read_keys(key_set(jwk(RSA, kid="a"), jwk(OTHER_RSA, kid="b"), jwk(P256, kid=None)))
    for private, algorithm, named, is_verified in (
        (RSA, "RS256", "a", True),
        (RSA, "RS256", "b", False),
        (RSA, "RS256", "c", False),
        (RSA, "RS256", "", False),
        (P256, "ES256", "a", False),
    ):
        token = token_in(f"Bearer {signed(private, algorithm, kid=named)}")
        assert (payload_of(token, keys) is not None) is is_verified, named
    for private, algorithm in ((RSA, "RS256"), (OTHER_RSA, "PS256"), (P256, "ES256")):
        unnamed = jwt.PyJWS().encode(b"{}", private, algorithm=algorithm)
        assert payload_of(token_in(f"Bearer {unnamed}"), keys) == b"{}"  # RFC 7515: a token need not name its key


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "HS256", "HS384", "HS512", "ES512", "RS1", "", None, 1, ["RS256"], {}]
)
def test_no_other_algorithm_is_even_tried(algorithm: Any) -> None:
    with pytest.raises(InvalidToken) as refused:
        token_in(f"Bearer {written({'alg': algorithm, 'kid': 'k'})}")
    assert refused.value.reason == "algorithm"


def test_extensions_that_change_what_is_signed_are_refused() -> None:
    for header in ({"crit": ["exp"], "exp": 1}, {"b64": False}, {"b64": True}, {"crit": ["b64"], "b64": False}):
        with pytest.raises(InvalidToken):
            token_in(f"Bearer {written({'alg': 'RS256', **header}, b'')}")


def test_a_key_that_comes_with_the_token_is_nobodys() -> None:
    token = token_in(f"Bearer {signed(OTHER_RSA, 'RS256', jwk=jwk(OTHER_RSA), jku='http://127.0.0.1:1/')}")
    assert payload_of(token, read_keys(key_set(jwk(RSA)))) is None


# Headers


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer   ", "Basic abc", "Token a.b.c", "Bearera.b.c", "a.b.c"]
)
def test_who_shows_no_token_is_told_so(header: str | None) -> None:
    with pytest.raises(MissingToken) as refused:
        token_in(header)
    assert (refused.value.status, refused.value.detail) == (401, "missing bearer token")


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "..",
        "a b",
        "\udcff.\udcff.\udcff",
        "é.é.é",
        f"{unpadded(b'[]')}.{unpadded(b'{}')}.x",
        f"{unpadded(b'[' * 5000)}.{unpadded(b'{}')}.x",
        f"{unpadded(b'null')}.{unpadded(b'{}')}.x",
        f"{unpadded(b'{}')}.{unpadded(b'{}')}.x",
        written({"alg": "RS256", "kid": 7}),
        written({"alg": "RS256", "kid": None}),
    ],
)
def test_what_is_no_token_is_invalid(text: str) -> None:
    with pytest.raises(InvalidToken) as refused:
        token_in(f"Bearer {text}")
    assert (refused.value.status, refused.value.detail) == (401, "invalid token")


def test_a_token_has_a_limit() -> None:
    longest = MAX_TOKEN_CHARACTERS - len(written({"alg": "RS256"}, b""))
    fitting = written({"alg": "RS256"}, b"x" * (longest * 3 // 4))
    assert len(token_in(f"Bearer {fitting}").text) == len(fitting)
    with pytest.raises(InvalidToken) as refused:
        token_in(f"Bearer {written({'alg': 'RS256'}, b'x' * longest)}")
    assert refused.value.reason == "too_long"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    text = signed(RSA, "RS256")
    assert token_in(f"{scheme} {text}").text == text
    assert token_in(f"{scheme}   {text} ").text == text


HEADERS = st.one_of(
    st.text(),
    st.text().map(lambda text: f"Bearer {text}"),
    st.binary().map(lambda raw: f"Bearer {unpadded(raw)}.e30.x"),
)


@given(HEADERS)
def test_nothing_but_a_refusal_comes_of_odd_headers(header: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        token_in(header)
    assert refused.value.status == 401


# Key sets


def test_keys_that_cannot_be_used_are_passed_over() -> None:
    good = jwk(RSA)
    odd: list[Any] = [
        None,
        "key",
        {},
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "k"},
        {"kty": "MAC", "kid": "k"},
        {"kty": "RSA", "kid": "k"},
        {**good, "n": "*"},
        {**good, "n": 5},
        {**good, "e": "AQ"},
        {**good, "use": "enc"},
        {**good, "key_ops": ["encrypt"]},
        {**good, "alg": "RSA-OAEP"},
        {**good, "alg": "HS256"},
        {**good, "alg": "none"},
        {**good, "crv": "P-256"},
        {**jwk(P256), "y": jwk(P256)["x"]},
        {**jwk(P256), "crv": "P-384"},
        {**jwk(ED25519), "x": "AA"},
        jwk(P521),
        jwk(SHORT_RSA),
    ]
    assert read_keys(key_set(*odd)) == ()
    (key,) = read_keys(key_set(*odd, {**good, "use": "sig", "key_ops": ["verify"], "x5c": ["..."], "d": "c2VjcmV0"}))
    assert payload_of(token_in(f"Bearer {signed(RSA, 'RS256')}"), (key,)) == b"{}"
    assert not hasattr(key.public, "private_numbers")


@pytest.mark.parametrize(
    "document",
    [b"", b"null", b"[]", b"{}", b'{"keys":null}', b'{"keys":{}}', b"<html>", b"\xff", b'{"keys":' + b"[" * 100_000],
)
def test_what_is_no_set_of_keys_is_refused(document: bytes) -> None:
    with pytest.raises(UnreadableDocument):
        read_keys(document)


def test_a_set_has_a_limit() -> None:
    assert len(read_keys(key_set(*[jwk(P256)] * MAX_KEYS))) == MAX_KEYS
    with pytest.raises(UnreadableDocument):
        read_keys(key_set(*[jwk(P256)] * (MAX_KEYS + 1)))


@given(st.one_of(st.binary(), st.binary().map(lambda raw: b'{"keys":[%s]}' % raw)))
def test_nothing_but_a_refusal_comes_of_odd_documents(document: bytes) -> None:
    with suppress(UnreadableDocument):
        assert read_keys(document) == ()


# Claims


def payload(**changes: Any) -> bytes:
    good = {"iss": TERMS.issuer, "aud": ["tally"], "exp": SECONDS + 60, "scope": ["usage.admin"]}
    return json.dumps({name: value for name, value in {**good, **changes}.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        (["usage.admin"], {"usage.admin"}),
        (["a", "usage.admin", "a"], {"a", "usage.admin"}),
        ("usage.admin", {"usage.admin"}),
        ("a  usage.admin ", {"a", "usage.admin"}),
        (["a usage.admin"], {"a usage.admin"}),
        ("", set()),
        ([], set()),
        (None, set()),
        (..., set()),
    ],
)
def test_scopes_are_a_list_or_a_text(scope: Any, scopes: set[str]) -> None:
    assert scopes_of(payload(scope=scope), TERMS, NOW) == scopes


@pytest.mark.parametrize(
    "scope", [1, True, {}, {"usage.admin": True}, [1], [None], [["usage.admin"]], ["usage.admin", 1]]
)
def test_a_scope_that_is_neither_cannot_be_parsed(scope: Any) -> None:
    with pytest.raises(UnreadableClaims) as refused:
        scopes_of(payload(scope=scope), TERMS, NOW)
    assert (refused.value.status, refused.value.detail) == (401, "cannot parse claims")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://issuer.example/"}, "issuer"),
        ({"iss": "https://other.example"}, "issuer"),
        ({"iss": ...}, "claims"),
        ({"iss": None}, "claims"),
        ({"iss": ["https://issuer.example"]}, "claims"),
        ({"aud": "other"}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": ["other", "TALLY"]}, "audience"),
        ({"aud": "tally other"}, "audience"),
        ({"aud": ...}, "claims"),
        ({"aud": None}, "claims"),
        ({"aud": {"tally": 1}}, "claims"),
        ({"exp": ...}, "claims"),
        ({"exp": None}, "claims"),
        ({"exp": True}, "claims"),
        ({"exp": "soon"}, "claims"),
        ({"exp": "NaN"}, "claims"),
        ({"exp": "Infinity"}, "claims"),
        ({"exp": -1}, "expired"),
        ({"nbf": "later"}, "claims"),
        ({"nbf": "NaN"}, "claims"),
        ({"nbf": 10**400}, "not_yet_valid"),
    ],
)
def test_a_token_of_others_for_others_or_for_ever_is_invalid(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidToken) as refused:
        scopes_of(payload(**changes), TERMS, NOW)
    assert refused.value.reason == reason


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b'"x"', b"{", b"\xff", b"[" * 100_000, b"not json"])
def test_a_payload_that_says_nothing_is_invalid(raw: bytes) -> None:
    with pytest.raises(InvalidToken):
        scopes_of(raw, TERMS, NOW)


def test_the_audience_may_be_one_of_several() -> None:
    for audience in ("tally", ["tally"], ["other", "tally"]):
        assert scopes_of(payload(aud=audience), TERMS, NOW) == {"usage.admin"}


@pytest.mark.parametrize("skew_seconds", [0, 60])
@pytest.mark.parametrize("offset", [-1, 0, 1, 0.5])
def test_a_token_is_valid_from_nbf_until_before_exp_give_or_take_the_skew(skew_seconds: int, offset: float) -> None:
    terms = Terms(TERMS.issuer, TERMS.audience, timedelta(seconds=skew_seconds))

    def is_valid(**changes: Any) -> bool:
        try:
            return bool(scopes_of(payload(**changes), terms, NOW))
        except InvalidToken:
            return False

    assert is_valid(exp=SECONDS - skew_seconds + offset) is (offset > 0)
    assert is_valid(nbf=SECONDS + skew_seconds + offset) is (offset <= 0)


@pytest.mark.parametrize(
    ("changes", "customer"),
    [
        ({}, None),
        ({"customer_id": None}, None),
        ({"org_id": "ada"}, None),
        ({"customer_id": "ada"}, "ada"),
        ({"customer_id": "a/b é", "org_id": "other"}, "a/b é"),
    ],
)
def test_a_token_may_name_a_customer(changes: dict[str, Any], customer: str | None) -> None:
    assert customer_in(payload(**changes), "customer_id") == customer


@pytest.mark.parametrize("named", ["", " ", 7, True, ["ada"], {"key": "ada"}, "a\0", "x" * 257, "\ud800"])
def test_what_names_no_customer_cannot_be_parsed(named: Any) -> None:
    with pytest.raises(UnreadableClaims):
        customer_in(payload(customer_id=named), "customer_id")


# What is shown of a token that nobody has verified


def test_a_token_says_when_it_expires() -> None:
    assert expiry_of(written({"alg": "RS256"}, b'{"exp":%d}' % SECONDS)) == NOW
    for odd in ("opaque", written({"alg": "RS256"}), written({"alg": "RS256"}, b'{"exp":1e999}'), written({}, b"\xff")):
        assert expiry_of(odd) is None
    assert expiry_of(written({"alg": "RS256"}, b'{"exp":%d}' % 10**18)) is None
