"""A small Cloud Foundry platform in a process of its own: the Cloud Controller's API v3 and UAA's token endpoint.

``python -m tests.doubles.capi`` serves on a free port of the loopback, prints its URL, and ends with its stdin. Its
documents have all the members of the real ones. ``POST /control`` tells it what it holds, and how it misbehaves;
``Capi`` starts it and speaks to that. Pages are rendered when first asked for, and kept: large platforms answer fast.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.doubles import serving
from tests.doubles.serving import PATIENCE_SECONDS

CLIENT_ID = "billing"
CLIENT_SECRET = "s3cret +&é"  # pragma: allowlist secret
SCOPE = "cloud_controller.read cloud_controller.global_auditor"
EXPIRES_IN = 43_199
MAX_PER_PAGE = 5000

LISTS = ("organizations", "spaces", "apps", "processes", "service_instances", "service_plans", "service_offerings")
AT = "2024-03-17T21:41:30Z"

Document = dict[str, Any]


# Full documents from their facts


def _to(guid: str | None) -> Document:
    return {"data": None if guid is None else {"guid": guid}}


def _base(url: str, kind: str, fact: Document, **relationships: Document) -> Document:
    return {
        "guid": fact["guid"],
        "created_at": AT,
        "updated_at": AT,
        "name": fact.get("name", fact["guid"]),
        "relationships": relationships,
        "metadata": {"labels": {}, "annotations": {}},
        "links": {"self": {"href": f"{url}/v3/{kind}/{fact['guid']}"}},
    }


def _organization(url: str, fact: Document) -> Document:
    return {**_base(url, "organizations", fact, quota=_to("quota-1")), "suspended": False}


def _space(url: str, fact: Document) -> Document:
    document = _base(url, "spaces", fact, organization=_to(fact["organization"]), quota=_to(None))
    document["links"]["organization"] = {"href": f"{url}/v3/organizations/{fact['organization']}"}
    return {**document, "suspended": False}


def _app(url: str, fact: Document) -> Document:
    document = _base(url, "apps", fact, space=_to(fact["space"]), current_droplet=_to("droplet-1"))
    own = f"{url}/v3/apps/{fact['guid']}"
    document["links"] |= {
        "space": {"href": f"{url}/v3/spaces/{fact['space']}"},
        **{name: {"href": f"{own}/{name}"} for name in ("processes", "packages", "droplets", "tasks", "revisions")},
        **{name: {"href": f"{own}/actions/{name}", "method": "POST"} for name in ("start", "stop")},
    }
    lifecycle = {"type": "buildpack", "data": {"buildpacks": ["java_buildpack"], "stack": "cflinuxfs4"}}
    return {**document, "state": fact.get("state", "STARTED"), "lifecycle": lifecycle}


def _process(url: str, fact: Document) -> Document:
    document = _base(url, "processes", fact, app=_to(fact["app"]), revision=_to("revision-1"))
    del document["name"]
    check = {"type": "port", "data": {"timeout": None, "invocation_timeout": None, "interval": None}}
    return {
        **document,
        "version": "e9df685c-0464-4aa7-b5f0-8ed843077c13",
        "type": fact.get("type", "web"),
        "command": "[PRIVATE DATA HIDDEN IN LISTS]",
        "user": "vcap",
        "instances": fact.get("instances", 1),
        "memory_in_mb": fact.get("memory_in_mb", 256),
        "disk_in_mb": 1024,
        "log_rate_limit_in_bytes_per_second": 1024,
        "health_check": check,
        "readiness_health_check": check,
    }


def _service_instance(url: str, fact: Document) -> Document:
    kind = fact.get("type", "managed")
    plan = {"service_plan": _to(fact["plan"])} if kind == "managed" else {}
    document = _base(url, "service_instances", fact, space=_to(fact["space"]), **plan)
    operation = {"type": "create", "state": "succeeded", "description": "", "updated_at": AT, "created_at": AT}
    more: Document = {"type": kind, "tags": [], "last_operation": operation}
    if kind == "managed":
        more |= {"maintenance_info": {"version": "1.0.0"}, "upgrade_available": False, "dashboard_url": None}
    else:
        more |= {"syslog_drain_url": "https://logs.example.org", "route_service_url": None}
    return document | more


def _service_plan(url: str, fact: Document) -> Document:
    document = _base(url, "service_plans", fact, service_offering=_to(fact["offering"]))
    return {**document, "visibility_type": "public", "available": True, "free": False, "costs": []}


def _service_offering(url: str, fact: Document) -> Document:
    document = _base(url, "service_offerings", fact, service_broker=_to("broker-1"))
    return {**document, "description": "", "available": True, "tags": [], "shareable": True}


RENDER: dict[str, Callable[[str, Document], Document]] = {
    "organizations": _organization,
    "spaces": _space,
    "apps": _app,
    "processes": _process,
    "service_instances": _service_instance,
    "service_plans": _service_plan,
    "service_offerings": _service_offering,
}

PARENT = {
    "spaces": "space",
    "organizations": "organization",
    "service_plans": "service_plan",
    "service_offerings": "service_offering",
}
"""Under which name the resources of a kind are related to their children."""

FIELDS = {
    "space": ["spaces"],
    "space.organization": ["spaces", "organizations"],
    "service_plan": ["service_plans"],
    "service_plan.service_offering": ["service_plans", "service_offerings"],
}
"""The way from service instances to what ``fields[...]`` names."""


class BadQuery(Exception):
    """What the Cloud Controller answers with 400, ``CF-BadQueryParameter``."""


class State:
    """What the platform holds and does; all requests see one."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.released = threading.Event()
        self.url = ""
        self.do_reset()

    # What ``/control`` can do

    def do_reset(self) -> None:
        """An empty platform where all is well and nothing was asked for."""
        self.released.set()
        self.released = threading.Event()
        self.facts: dict[str, dict[str, Document]] = {name: {} for name in LISTS}
        self.patches: dict[str, Document] = {}
        self.rules: list[Document] = []
        self.tokens: list[str] = []
        self.valid: set[str] = set()
        self.asked: list[Document] = []
        self.pages: dict[tuple[Any, ...], bytes] = {}
        self.scope, self.expires_in, self.per_page = SCOPE, EXPIRES_IN, MAX_PER_PAGE

    def do_put(self, **lists: list[Document]) -> None:
        """Puts resources into the lists, each given by its facts; one that is there already keeps its place."""
        for name, facts in lists.items():
            self.facts[name] |= {fact["guid"]: fact for fact in facts}
        self.pages.clear()

    def do_drop(self, **lists: list[str]) -> None:
        """Takes resources out of the lists, by guid."""
        for name, guids in lists.items():
            for guid in guids:
                del self.facts[name][guid]
        self.pages.clear()

    def do_patch(self, of: str, **members: Any) -> None:
        """Replaces members of one resource's document, whatever they are to be."""
        self.patches[of] = members
        self.pages.clear()

    def do_populate(self, apps: int, services: int = 0) -> None:
        """A large platform: 20 apps in a space, 10 spaces in an organization."""
        spaces, organizations = -(-apps // 20), -(-apps // 200)
        self.do_put(
            organizations=[{"guid": f"org-{n}", "name": f"agency-{n}"} for n in range(organizations)],
            spaces=[{"guid": f"space-{n}", "name": f"s{n}", "organization": f"org-{n // 10}"} for n in range(spaces)],
            apps=[{"guid": f"app-{n:06}", "name": f"app {n}", "space": f"space-{n // 20}"} for n in range(apps)],
            processes=[{"guid": f"p-{n:06}", "app": f"app-{n:06}", "instances": n % 3} for n in range(apps)],
            service_offerings=[{"guid": "offering", "name": "aws-rds"}],
            service_plans=[{"guid": "plan", "name": "micro", "offering": "offering"}],
            service_instances=[
                {"guid": f"svc-{n:06}", "name": f"db{n}", "space": f"space-{n % max(spaces, 1)}", "plan": "plan"}
                for n in range(services)
            ],
        )

    def do_when(self, path: str, page: int | None = None, after: int = 0, times: int = 1_000_000, **deed: Any) -> None:
        """What to do when a path is asked for (a certain page of it, if so said), from then on and so many times.

        ``status`` with ``headers`` and ``body``: answer so. ``hang``: not until the platform is reset. ``cut``: end the
        connection in the middle of the answer. ``next``: where the page says its list goes on. ``then``: answer well,
        and afterwards do these deeds of ``/control``, each a list of a name and its members.
        """
        self.rules.append({"path": path, "page": page, "after": after, "times": times, **deed})

    def do_set(self, **settings: Any) -> None:
        """``scope`` and ``expires_in`` of tokens, and ``per_page``: the most that a page holds."""
        for name, value in settings.items():
            setattr(self, name, value)
        self.pages.clear()

    def do_expire(self) -> None:
        """No token that was given until now counts any more."""
        self.valid.clear()

    def do_asked(self) -> list[Document]:
        """What was asked for until now, in order."""
        return self.asked

    # What it answers

    def rule_for(self, path: str, page: int) -> Document:
        """What is to be done now at this path, if anything."""
        for rule in self.rules:
            if rule["path"] != path or rule["page"] not in (None, page) or rule["times"] <= 0:
                continue
            if rule["after"] > 0:
                rule["after"] -= 1
                continue
            rule["times"] -= 1
            return rule
        return {}

    def root(self) -> Document:
        links: Document = {name: {"href": self.url} for name in ("self", "uaa", "login", "log_cache", "routing")}
        links["cloud_controller_v3"] = {"href": f"{self.url}/v3", "meta": {"version": "3.180.0"}}
        return {
            "links": {**links, "network_policy_v0": {"href": f"{self.url}/networking/v0/external"}, "credhub": None}
        }

    def token(self, form: dict[str, str]) -> tuple[int, Document]:
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return 401, {
                "error": "invalid_client",
                "error_description": f"Bad credentials: {form.get('client_secret')}",
            }
        if form.get("grant_type") != "client_credentials":
            return 400, {"error": "unsupported_grant_type", "error_description": "Unsupported grant type"}
        token = f"token-{len(self.tokens) + 1}"
        self.tokens.append(token)
        self.valid.add(token)
        more = {"token_type": "bearer", "expires_in": self.expires_in, "scope": self.scope, "jti": token}
        return 200, {"access_token": token, **more}

    def render(self, kind: str, guid: str) -> Document:
        return RENDER[kind](self.url, self.facts[kind][guid]) | self.patches.get(guid, {})

    def page(self, kind: str, query: dict[str, str], next_href: str | None = None) -> bytes:
        """A page of a list. Raises ``BadQuery`` as the Cloud Controller refuses."""
        per_page, number = int(query.get("per_page", "50")), int(query.get("page", "1"))
        if not 1 <= per_page <= MAX_PER_PAGE:
            raise BadQuery("Per page must be between 1 and 5000")
        size = min(per_page, self.per_page)
        query = {name: value for name, value in query.items() if name not in ("page", "per_page")}
        key = (kind, number, size, next_href, *sorted(query.items()))
        if key not in self.pages:
            self.pages[key] = self._render_page(kind, query, number, size, next_href)
        return self.pages[key]

    def _render_page(self, kind: str, query: dict[str, str], number: int, size: int, next_href: str | None) -> bytes:
        guids = list(self.facts[kind])
        if "type" in query:
            guids = [guid for guid in guids if self.facts[kind][guid].get("type", "managed") == query["type"]]
        shown = [self.render(kind, guid) for guid in guids[(number - 1) * size : number * size]]
        last = max(-(-len(guids) // size), 1)

        def link(page: int) -> Document:
            return {"href": f"{self.url}/v3/{kind}?{urlencode({**query, 'page': page, 'per_page': size})}"}

        document: Document = {
            "pagination": {
                # Beyond its end a list has no length: the Cloud Controller counts it along with the page.
                "total_results": len(guids) if shown else 0,
                "total_pages": last,
                "first": link(1),
                "last": link(last),
                "next": {"href": next_href} if next_href else link(number + 1) if number < last else None,
                "previous": link(number - 1) if number > 1 else None,
            },
            "resources": shown,
        }
        return json.dumps(document | self.beside(query, shown)).encode()

    def beside(self, query: dict[str, str], shown: list[Document]) -> Document:
        """What ``include`` and ``fields`` add."""
        included: dict[str, list[Document]] = {}
        if query.get("include") == "space.organization":
            included = {
                kind: self._along(shown, FIELDS["space.organization"][:n])
                for n, kind in ((1, "spaces"), (2, "organizations"))
            }
        elif "include" in query:
            raise BadQuery("Invalid included resource")
        for name, way in FIELDS.items():
            if keys := query.get(f"fields[{name}]"):
                included[way[-1]] = [_only(each, keys.split(",")) for each in self._along(shown, way)]
        return {"included": included} if included else {}

    def _along(self, children: list[Document], way: list[str]) -> list[Document]:
        """The ancestors at the end of a way, each once; those that are not there are not."""
        for kind in way:
            guids = dict.fromkeys(_related(child, PARENT[kind]) for child in children)
            children = [self.render(kind, guid) for guid in guids if guid in self.facts[kind]]
        return children


class Handler(serving.Handler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.body()
        state = self.server.state
        if self.path == "/control":
            with state.lock:
                result = serving.told(state, body)
            self.answer(200, json.dumps(result).encode())
        else:
            self.serve(
                lambda: _json(*state.token({name: values[0] for name, values in parse_qs(body.decode()).items()}))
            )

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.serve(lambda: self.look_up(parts.path, query))

    def serve(self, well: Callable[[], tuple[int, bytes]]) -> None:
        """Answers well, unless a rule says otherwise."""
        state, parts = self.server.state, urlsplit(self.path)
        number = int(parse_qs(parts.query).get("page", ["1"])[0])
        with state.lock:
            state.asked.append({"path": parts.path, "page": number, "token": self.headers.get("Authorization")})
            self.rule = rule = state.rule_for(parts.path, number)
            released = state.released
        if rule.get("hang"):
            released.wait(PATIENCE_SECONDS)
            self.close_connection = True
            return
        if "status" in rule:
            self.answer(
                rule["status"], rule.get("body", "").encode(), rule.get("headers", {}), cut=rule.get("cut", False)
            )
            return
        with state.lock:
            status, body = well()
            for name, members in rule.get("then", []):
                getattr(state, f"do_{name}")(**members)
        self.answer(status, body, cut=rule.get("cut", False))

    def look_up(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        state = self.server.state
        if path == "/":
            return _json(200, state.root())
        if self.headers.get("Authorization", "").removeprefix("bearer ") not in state.valid:
            return _error(401, 1000, "CF-InvalidAuthToken", "Invalid Auth Token")
        version, kind, *rest = path.removeprefix("/").split("/")
        if version != "v3" or kind not in LISTS or len(rest) > 1 or (rest and rest[0] not in state.facts[kind]):
            return _error(404, 10010, "CF-ResourceNotFound", "Not found")
        try:
            if not rest:
                return 200, state.page(kind, query, self.rule.get("next"))
            document = state.render(kind, rest[0])
            return _json(200, document | state.beside(query, [document]))
        except BadQuery as error:
            return _error(400, 10005, "CF-BadQueryParameter", str(error))

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        usual = {"Date": self.date_time_string(), "Content-Type": "application/json; charset=utf-8"}
        self.send_response_only(status)
        for name, value in (usual | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cut:
            self.close_connection = True
            body = body[: len(body) // 2]
        self.wfile.write(body)


def _related(document: Document, name: str) -> str:
    """The guid to which a relationship leads, or nothing, whatever a test has made of it."""
    found: Any = document
    for step in ("relationships", name, "data", "guid"):
        found = found.get(step) if isinstance(found, dict) else None
    return str(found or "")


def _only(document: Document, keys: list[str]) -> Document:
    """The members that are asked for, as ``guid`` or ``relationships.organization``."""
    only: Document = {}
    for key in keys:
        name, _, inner = key.partition(".")
        only[name] = {**only.get(name, {}), inner: document[name][inner]} if inner else document[name]
    return only


def _json(status: int, document: Document) -> tuple[int, bytes]:
    return status, json.dumps(document).encode()


def _error(status: int, code: int, title: str, detail: str) -> tuple[int, bytes]:
    return _json(status, {"errors": [{"code": code, "title": title, "detail": detail}]})


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(serving.ADDRESS, Handler)
        self.state = State()
        self.state.url = f"http://127.0.0.1:{self.server_address[1]}"


class Capi(serving.Spawned):
    """The process, and what it can be told."""

    def __init__(self) -> None:
        super().__init__("tests.doubles.capi")

    def asked(self, path: str | None = None) -> list[Document]:
        """What was asked for, at one path if it is given."""
        return [each for each in self.tell("asked") if path in (None, each["path"])]


if __name__ == "__main__":
    server = Server()
    serving.serve(server, server.state.url)
