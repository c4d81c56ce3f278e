"""Bearer tokens: JSON Web Tokens (RFC 7519) that somebody else, the issuer, has signed (RFC 7515).

Pure: who has signed a token, and whether it is meant for us and now. Where the keys come from is told in ``oidc``.
Statuses and texts of refusals are those that callers of the platform's billing know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import jwt
import msgspec

from tallystick.kernel.errors import InvalidInput, TallyError
from tallystick.kernel.text import check_key

ADMIN_SCOPE = "usage.admin"
"""The scope of those who administer the platform's billing."""

READ_SCOPE = "usage.read"
"""The scope of those who may see what one customer uses and has: the customer whom the token names."""

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
"""How a token may be signed: with a private key. Neither ``none``, nor ``HS*``, whose secret would be a public key."""

MAX_TOKEN_CHARACTERS = 16_384
MAX_KEYS = 50
"""Most keys in an issuer's set. A token that names no key is tried with each of them."""

MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
"""A shorter key can be broken (RFC 7518, 3.3); a longer one only costs time."""

_FAMILIES = {
    ("RSA", None): frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}
"""By type and curve of a key: what it may be used for."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SIGNATURES = jwt.PyJWS(algorithms=ALGORITHMS)

Document = TypeVar("Document")


class TokenRefused(TallyError):
    """Whoever calls is not let in. ``challenge`` is what ``WWW-Authenticate`` says (RFC 6750)."""

    code = "token_refused"
    status = 401
    challenge: str = "Bearer"


class MissingToken(TokenRefused):
    """The caller shows no token."""

    code = "token_missing"

    def __init__(self) -> None:
        super().__init__("missing bearer token")


class InvalidToken(TokenRefused):
    """The token is none, not from this issuer, not for us, or not for now. ``reason`` is one word for the log."""

    code = "token_invalid"
    challenge = 'Bearer error="invalid_token"'

    def __init__(self, reason: str) -> None:
        super().__init__("invalid token")
        self.reason = reason


class UnreadableClaims(TokenRefused):
    """The issuer has signed something that is not what a scope must be."""

    code = "claims_unreadable"
    challenge = 'Bearer error="invalid_token"'

    def __init__(self) -> None:
        super().__init__("cannot parse claims")


class MissingScope(TokenRefused):
    """The token is right, and not enough."""

    code = "scope_missing"
    status = 403

    def __init__(self, wanted: str = ADMIN_SCOPE) -> None:
        super().__init__("forbidden")
        self.challenge = f'Bearer error="insufficient_scope", scope="{wanted}"'


class UnreadableDocument(Exception):
    """A document of the issuer is not what it must be."""


# The token as it comes


@dataclass(frozen=True, slots=True)
class Token:
    """A token that nobody has verified. ``key_id`` names the key that has signed it, if the issuer names its keys."""

    text: str
    algorithm: str
    key_id: str | None


def token_in(authorization: str | None) -> Token:
    """The token of an ``Authorization`` header. Raises ``MissingToken``, ``InvalidToken``."""
    scheme, _, text = (authorization or "").partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or not text:
        raise MissingToken
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise InvalidToken("too_long")
    if not text.isascii():
        raise InvalidToken("malformed")
    try:
        header = jwt.get_unverified_header(text)
    except (jwt.PyJWTError, RecursionError):
        raise InvalidToken("malformed") from None
    # Extensions that must be understood (RFC 7515, 4.1.11): we understand none, and want the payload in the token.
    if "crit" in header or "b64" in header:
        raise InvalidToken("extension")
    if header.get("alg") not in ALGORITHMS:
        raise InvalidToken("algorithm")
    return Token(text, header["alg"], header.get("kid"))


# Keys


@dataclass(frozen=True, slots=True)
class Key:
    """A public key of the issuer, and the algorithms that it may be used with."""

    id: str | None
    algorithms: frozenset[str]
    public: Any


class _KeySet(msgspec.Struct):
    keys: list[msgspec.Raw]


class _Jwk(msgspec.Struct, omit_defaults=True):
    """The public members of a JSON Web Key (RFC 7517, RFC 7518): should others be there, nothing reads them."""

    kty: str
    kid: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None


def read_keys(document: bytes) -> tuple[Key, ...]:
    """The keys of a JSON Web Key Set that verify signatures. One that cannot be used is passed over.

    Raises ``UnreadableDocument``, also if there are more than ``MAX_KEYS``.
    """
    keys = read_document(document, _KeySet).keys
    if len(keys) > MAX_KEYS:
        raise UnreadableDocument(f"it has more than {MAX_KEYS} keys")
    return tuple(key for raw in keys if (key := _key(raw)) is not None)


def read_document(document: bytes | msgspec.Raw, shape: type[Document]) -> Document:
    """A JSON document of the issuer. Raises ``UnreadableDocument``."""
    try:
        return msgspec.json.decode(document, type=shape)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors, and so is text that is not UTF-8
        raise UnreadableDocument("it is not the JSON that it must be") from None


def _key(raw: msgspec.Raw) -> Key | None:
    try:
        jwk = read_document(raw, _Jwk)
    except UnreadableDocument:
        return None
    algorithms = _FAMILIES.get((jwk.kty, jwk.crv), frozenset()) & ({jwk.alg} if jwk.alg else set(ALGORITHMS))
    if not algorithms or jwk.use not in (None, "sig") or (jwk.key_ops is not None and "verify" not in jwk.key_ops):
        return None
    try:
        public = jwt.PyJWK(msgspec.to_builtins(jwk), min(algorithms)).key
    except jwt.PyJWTError:
        return None
    if jwk.kty == "RSA" and not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
        return None
    return Key(jwk.kid, algorithms, public)


def payload_of(token: Token, keys: Collection[Key]) -> bytes | None:
    """What the token says, if one of these keys has signed it."""
    for key in _fitting(token, keys):
        try:
            payload: bytes = _SIGNATURES.decode(token.text, key.public, algorithms=[token.algorithm])
        except jwt.PyJWTError:
            continue
        return payload
    return None


def _fitting(token: Token, keys: Collection[Key]) -> Iterator[Key]:
    return (key for key in keys if token.algorithm in key.algorithms and token.key_id in (None, key.id))


# What the token says


class _Claims(msgspec.Struct):
    iss: str
    aud: str | list[str]
    exp: Decimal
    nbf: Decimal | None = None
    scope: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a token must be to be valid here: of this issuer, for this audience, now, give or take ``skew``."""

    issuer: str
    audience: str
    skew: timedelta


def scopes_of(payload: bytes, terms: Terms, now: datetime) -> frozenset[str]:
    """The scopes that a verified token gives. Raises ``InvalidToken``, ``UnreadableClaims``.

    Scopes are a list, or as RFC 8693 has them one text with spaces between.
    """
    try:
        claims = read_document(payload, _Claims)
    except UnreadableDocument:
        raise InvalidToken("claims") from None
    if claims.iss != terms.issuer:
        raise InvalidToken("issuer")
    if terms.audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise InvalidToken("audience")
    _check_time(claims, now, terms.skew)
    try:
        scope = msgspec.json.decode(claims.scope, type=str | list[str] | None)
    except (ValueError, RecursionError):
        raise UnreadableClaims from None
    return frozenset(scope.split() if isinstance(scope, str) else scope or ())


def customer_in(payload: bytes, claim: str) -> str | None:
    """The customer whom a verified token names in this claim, if it names one. Raises ``UnreadableClaims``."""
    try:
        named = read_document(payload, dict[str, msgspec.Raw]).get(claim, msgspec.Raw(b"null"))
        customer = msgspec.json.decode(named, type=str | None)
        return None if customer is None else check_key(customer, claim)
    except (UnreadableDocument, ValueError, RecursionError, InvalidInput):
        raise UnreadableClaims from None


def _check_time(claims: _Claims, now: datetime, skew: timedelta) -> None:
    """A token is valid in [``nbf``, ``exp``) (RFC 7519, 4.1.4 and 4.1.5)."""
    if not (claims.exp.is_finite() and (claims.nbf is None or claims.nbf.is_finite())):
        raise InvalidToken("claims")
    if claims.exp <= _seconds(now - skew):
        raise InvalidToken("expired")
    if claims.nbf is not None and claims.nbf > _seconds(now + skew):
        raise InvalidToken("not_yet_valid")


def _seconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(seconds=1)


class _Expiry(msgspec.Struct):
    exp: int


def expiry_of(token: str) -> datetime | None:
    """When a token that nobody has verified says that it expires; ``None`` if it does not say so."""
    try:
        payload = jwt.api_jws.decode_complete(token, options={"verify_signature": False})["payload"]
        return _EPOCH + timedelta(seconds=read_document(payload, _Expiry).exp)
    except (jwt.PyJWTError, UnreadableDocument, ValueError, OverflowError):
        return None
