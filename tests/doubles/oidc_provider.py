"""A small OpenID provider in a process of its own, which signs, rotates its keys, and misbehaves as it is told.

``python -m tests.doubles.oidc_provider`` serves on a free port of the loopback, prints its URL, and ends with its
stdin. With a folder as its argument it serves by https, and puts its certificate there.

Its outside is that of any provider: discovery, keys (JWKS), a token endpoint. ``POST /control`` tells it what to do;
``Provider`` starts it and speaks to that.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import ipaddress
import json
import ssl
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.doubles import serving
from tests.doubles.serving import PATIENCE_SECONDS

CLIENT_ID = "tally-client"
CLIENT_SECRET = "s3cret +&é"  # pragma: allowlist secret
SCOPES = ["usage.admin", "openid"]
LIFETIME = timedelta(hours=12)
CERTIFICATE = "certificate.pem"

_MAKERS: dict[str, Callable[[], Any]] = {
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "rsa-short": lambda: rsa.generate_private_key(public_exponent=65537, key_size=1024),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}
_WRITERS: dict[str, Callable[..., Any]] = {
    "rsa": RSAAlgorithm.to_jwk,
    "p": ECAlgorithm.to_jwk,
    "ed": OKPAlgorithm.to_jwk,
}


def _unpadded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class State:
    """What the provider has and does; all requests see one."""

    def __init__(self) -> None:
        self.url = ""
        self.private: dict[str, Any] = {}
        self.published: dict[str, dict[str, Any]] = {}
        self.modes: dict[str, str] = {}
        self.discovery: dict[str, Any] = {}
        self.asked: Counter[str] = Counter()
        self.changed = threading.Condition()
        self.released = threading.Event()
        self.add("first", "rsa")
        self._first = dict(self.published)

    def add(self, kid: str, kind: str, **members: Any) -> None:
        """Makes a key and publishes it; ``members`` with a value go into its JWK, those without out of it."""
        self.private[kid] = key = _MAKERS[kind]()
        write = next(writer for start, writer in _WRITERS.items() if kind.startswith(start))
        jwk = {**write(key.public_key(), as_dict=True), "kid": kid, "use": "sig", **members}
        self.published[kid] = {name: value for name, value in jwk.items() if value is not None}

    # What ``/control`` can do

    def do_reset(self) -> None:
        """All is well, with the key ``first``, and nothing has been asked for."""
        self.do_release()
        self.published = dict(self._first)
        self.modes, self.discovery, self.asked = {}, {}, Counter()

    def do_rotate(self, kid: str, kind: str = "rsa", keep: bool = False, **members: Any) -> None:
        """Signs with a new key from now on; the others are gone from the set unless they are kept."""
        if not keep:
            self.published.clear()
        self.add(kid, kind, **members)

    def do_publish(self, jwk: dict[str, Any]) -> None:
        """Puts something into the set, whatever it is."""
        self.published[f"{len(self.published)}-{jwk.get('kid')}"] = jwk

    def do_withdraw(self) -> None:
        """Takes all keys out of the set; the private ones remain."""
        self.published.clear()

    def do_behave(self, document: str, mode: str) -> None:
        """How ``discovery``, ``keys`` or ``token`` is answered from now on.

        ``well``, in one of ``_ILL``'s ways, or ``hang``: not until ``release``.
        """
        self.modes[document] = mode
        self.released.clear()

    def do_say(self, **members: Any) -> None:
        """Changes members of the discovery document."""
        self.discovery = members

    def do_release(self) -> None:
        """Answers those who were left hanging."""
        self.modes = {document: mode for document, mode in self.modes.items() if mode != "hang"}
        self.released.set()

    def do_wait(self, document: str, times: int) -> int:
        """Returns once a document has been asked for so many times."""
        with self.changed:
            self.changed.wait_for(lambda: self.asked[document] >= times, PATIENCE_SECONDS)
        return self.asked[document]

    def do_sign(
        self, payload: str, algorithm: str = "RS256", key: str = "first", header: dict[str, Any] | None = None
    ) -> str:
        """A token with this payload, whatever it is, by a key, published or not; ``header`` may say otherwise."""
        head = {"kid": key, **(header or {})}
        body = payload.encode("utf-8", "surrogateescape")
        if algorithm.startswith("HS") or algorithm == "none":
            return self._forge(body, algorithm, key, head)
        named = {name: value for name, value in head.items() if value is not None}
        return jwt.PyJWS().encode(body, self.private[key], algorithm=algorithm, headers=named)

    def _forge(self, body: bytes, algorithm: str, key: str, head: dict[str, Any]) -> str:
        """Without a signature, or with one whose secret everybody knows: the public key."""
        signed = b".".join(_unpadded(part) for part in (json.dumps({"alg": algorithm, **head}).encode(), body))
        public = self.private[key].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        mac = b"" if algorithm == "none" else hmac.new(public, signed, hashlib.sha256).digest()
        return (signed + b"." + _unpadded(mac)).decode()


class Handler(serving.Handler):
    server: Server

    def do_GET(self) -> None:
        state = self.server.state
        documents: dict[str, tuple[str, Callable[[], Any]]] = {
            "/.well-known/openid-configuration": ("discovery", self._discovery),
            "/keys": ("keys", lambda: {"keys": list(state.published.values())}),
            "/elsewhere": ("elsewhere", lambda: {"keys": list(state.published.values())}),
        }
        if self.path not in documents:
            self.answer(404, b"{}")
            return
        name, document = documents[self.path]
        self._serve(name, document)

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/control":
            self.answer(200, json.dumps(serving.told(self.server.state, body)).encode())
        elif self.path == "/token":
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            self._serve("token", lambda: self._token(form))

    def _serve(self, name: str, document: Callable[[], Any]) -> None:
        state = self.server.state
        with state.changed:
            state.asked[name] += 1
            state.changed.notify_all()
        mode = state.modes.get(name, "well")
        if mode == "hang":
            state.released.wait(PATIENCE_SECONDS)
        if mode in ("well", "hang"):
            said = document()
            self.answer(400 if "error" in said else 200, json.dumps(said).encode())
        else:
            _ILL[mode](self, json.dumps(document()).encode())

    def _discovery(self) -> dict[str, Any]:
        url = self.server.state.url
        standard = {"issuer": url, "jwks_uri": f"{url}/keys", "token_endpoint": f"{url}/token"}
        return {**standard, **self.server.state.discovery}

    def _token(self, form: dict[str, str]) -> dict[str, Any]:
        client, secret = form.get("client_id"), form.get("client_secret")
        if (basic := self.headers.get("Authorization", "")).startswith("Basic "):
            client, secret = map(unquote_plus, base64.b64decode(basic[6:]).decode().split(":", 1))
        if (client, secret) != (CLIENT_ID, CLIENT_SECRET):
            return {"error": "invalid_client", "error_description": "Bad credentials"}
        wanted = form.get("scope", "").split()
        if form.get("grant_type") != "client_credentials" or not set(wanted) <= set(SCOPES):
            return {"error": "invalid_scope"}
        state, now = self.server.state, datetime.now().astimezone()
        expires_at = int((now + LIFETIME).timestamp())
        claims = {"iss": state.url, "aud": [CLIENT_ID], "exp": expires_at, "scope": wanted}
        return {"access_token": state.do_sign(json.dumps(claims)), "token_type": "bearer"}

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Type": "application/json", "Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def huge(self, document: bytes) -> None:
        """Announces no length, and does not end by itself."""
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b" " * 65536)
        except OSError:  # the other side has had enough
            pass

    def cut(self, document: bytes) -> None:
        """Ends in the middle of its answer."""
        self.answer(200, document, Content_Length=str(len(document) + 1))

    def many(self, document: bytes) -> None:
        """A set of more keys than anybody has."""
        keys = list(self.server.state.published.values()) * 60
        self.answer(200, json.dumps({"keys": keys}).encode())


_ILL: dict[str, Callable[[Handler, bytes], None]] = {
    "huge": Handler.huge,
    "cut": Handler.cut,
    "many": Handler.many,
    "500": lambda handler, document: handler.answer(500, document),
    "404": lambda handler, document: handler.answer(404, document),
    "redirect": lambda handler, document: handler.answer(302, document, Location="/elsewhere"),
    "garbage": lambda handler, document: handler.answer(200, b"<html>\xff" + document),
    "nested": lambda handler, document: handler.answer(200, b'{"keys":' + b"[" * 100_000),
    "null": lambda handler, document: handler.answer(200, b"null"),
    "empty": lambda handler, document: handler.answer(200, b""),
    "gzip": lambda handler, document: handler.answer(200, gzip.compress(document), Content_Encoding="gzip"),
    "wordless": lambda handler, document: handler.answer(200, b'{"access_token": "a b"}'),
}
"""With what it would have said, ``document``, in hand."""


class Server(ThreadingHTTPServer):
    """Serves until its process ends."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, state: State, tls: ssl.SSLContext | None) -> None:
        super().__init__(serving.ADDRESS, Handler)
        self.state = state
        state.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.server_address[1]}"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)


def _certified(folder: Path) -> ssl.SSLContext:
    """With a certificate for the loopback that nobody but itself has signed; ``folder`` gets it, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now().astimezone()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer of the tests")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    dated = unsigned.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    purposes = x509.BasicConstraints(ca=True, path_length=None)
    certificate = dated.add_extension(names, critical=False).add_extension(purposes, critical=True)
    (folder / CERTIFICATE).write_bytes(certificate.sign(key, SHA256()).public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / CERTIFICATE, folder / "key.pem")
    return context


class Provider(serving.Spawned):
    """The provider's process, and how a test speaks to it."""

    def __init__(self, tls_folder: Path | None = None) -> None:
        super().__init__("tests.doubles.oidc_provider", *([] if tls_folder is None else [str(tls_folder)]))
        self.tls = None if tls_folder is None else ssl.create_default_context(cafile=tls_folder / CERTIFICATE)

    def asked(self, document: str) -> int:
        """How often ``discovery``, ``keys``, ``token`` or ``elsewhere`` has been asked for."""
        return int(self.tell("wait", document=document, times=0))

    def claims(self, now: datetime, **changes: Any) -> dict[str, Any]:
        """Those of a good token, an hour long; changes with the value ``None`` leave a claim out."""
        seconds = int(now.timestamp())
        good = {"iss": self.url, "aud": [CLIENT_ID], "sub": "boss", "iat": seconds, "exp": seconds + 3600}
        claims = {**good, "scope": ["usage.admin"], **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, now: datetime, *, signed: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token with these claims; ``signed`` says how, if otherwise than well."""
        return str(self.tell("sign", payload=json.dumps(self.claims(now, **changes)), **(signed or {})))

    def bearer(self, now: datetime, *, signed: dict[str, Any] | None = None, **changes: Any) -> str:
        """The same as a value of ``Authorization``."""
        return f"Bearer {self.token(now, signed=signed, **changes)}"


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # about short keys: it makes some to have them refused
    server = Server(State(), _certified(Path(sys.argv[1])) if sys.argv[1:] else None)
    serving.serve(server, server.state.url)
