"""compose.yaml: of the right shape, understood by us, and each command that we can run is run without an engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml  # type: ignore[import-untyped]

from tallystick.database.migrate import migrate
from tallystick.database.pool import open_pool
from tallystick.service import broker_of
from tallystick.settings import Settings
from tests.ledger.tigerbeetle.server import given_binary
from tests.outbox.rabbitmq import free_port, running_rabbitmq
from tests.packaging import dockerfile
from tests.system.monitoring import eventually, program

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
COMPOSE, DEVELOPMENT = ROOT / "compose.yaml", ROOT / "packaging" / "compose.dev.yaml"
OURS = ("migrate", "service", "worker")

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `make docker-up` writes into .env."""
    path = tmp_path_factory.mktemp("env") / ".env"
    subprocess.run([sys.executable, ROOT / "packaging" / "new_env.py", path], check=True)
    assert path.stat().st_mode & 0o777 == 0o600
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.fixture(scope="module")
def compose(secrets: dict[str, str]) -> dict[str, Any]:
    """The file as the engine reads it: with variables in place."""

    def value(match: re.Match[str]) -> str:
        given = secrets.get(match["name"], "")
        assert given or match["kind"] == "-", f"{match['name']} is neither in .env nor has a default"
        return given or match["text"]

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: filled(each) for key, each in node.items()}
        if isinstance(node, list):
            return [filled(each) for each in node]
        return _VARIABLE.sub(value, node) if isinstance(node, str) else node

    read: dict[str, Any] = filled(yaml.safe_load(COMPOSE.read_text(encoding="utf-8")))
    return read


@pytest.mark.parametrize("path", [COMPOSE, DEVELOPMENT], ids=lambda path: path.name)
def test_it_is_of_the_specified_shape(path: Path) -> None:
    """By the schema of compose-spec, which check-jsonschema carries."""
    command = [str(PROGRAMS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_it_has_everything(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {*OURS, "postgres", "tigerbeetle", "rabbitmq", "mail"}
    for name, service in compose["services"].items():
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in compose["volumes"]
        for other, condition in service.get("depends_on", {}).items():
            needs_health = condition["condition"] == "service_healthy"
            assert not needs_health or "test" in compose["services"][other]["healthcheck"]


def test_ports_are_open_to_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert "127.0.0.1:8001:8001" in ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_are_of_a_version(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name not in OURS:
            assert re.search(r":v?\d", service["image"]), name
    lock = (ROOT / "requirements" / "runtime.lock").read_text(encoding="utf-8")
    client = re.search(r"^tigerbeetle==(\S+)", lock, re.MULTILINE)
    assert client is not None
    assert compose["services"]["tigerbeetle"]["image"].endswith(f":{client[1]}"), "client and server fit each other"


def test_secrets_are_new_each_time_and_stand_nowhere_else(secrets: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "packaging" / "new_env.py"), str(tmp_path / "env")]
    subprocess.run(command, check=True)
    first = (tmp_path / "env").read_text(encoding="utf-8")
    subprocess.run(command, check=True)
    assert (tmp_path / "env").read_text(encoding="utf-8") == first, "what is there stays"
    assert not set(secrets.values()) & {line.partition("=")[2] for line in first.splitlines()}
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert ".env" in ignored


@pytest.mark.parametrize("name", OURS)
def test_its_environment_is_what_our_settings_read(
    compose: dict[str, Any], secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    known = {str(each) for setting in Settings.model_fields.values() for each in setting.validation_alias.choices}  # type: ignore[union-attr]
    for variable in known & set(os.environ):
        monkeypatch.delenv(variable)
    environment = compose["services"][name]["environment"]
    assert set(environment) - known == {"PGPASSWORD"}
    for variable, value in environment.items():
        assert isinstance(value, str), f"{variable} would be changed by the engine"
        monkeypatch.setenv(variable, value)
    settings = Settings()
    broker = broker_of(settings)
    assert broker is not None
    assert urlsplit(broker.url).hostname == "rabbitmq"
    assert urlsplit(broker.url).password == secrets["RABBITMQ_PASSWORD"]
    assert settings.tigerbeetle == (0, "tigerbeetle:3000")
    assert settings.admin_keys == {secrets["ADMIN_API_KEYS"]}
    assert settings.mail_smtp_server == "mail"
    assert not settings.worker
    assert settings.database_url == "postgresql://tally@postgres:5432/tally"
    for host in ("postgres", "tigerbeetle", "rabbitmq", "mail"):
        assert host in compose["services"]


@pytest.mark.parametrize("name", OURS)
def test_what_runs_of_ours_has_no_rights(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


# The commands


def tally(
    compose: dict[str, Any], name: str, database_url: str, *more: str, **environment: str
) -> subprocess.Popen[str]:
    """A service of ours with the image's entry point, on a database of the test's own and without the others."""
    image = dockerfile.read(ROOT / "Dockerfile")[-1]
    words = [*image.command("ENTRYPOINT"), *compose["services"][name]["command"], *more]
    variables = compose["services"][name]["environment"] | {
        "TALLY_DATABASE_URL": database_url,
        "TALLY_LEDGER": "postgres",
        "TALLY_CLOUDAMQP_URL": f"amqp://127.0.0.1:{free_port()}",
        "TALLY_MAIL_SMTP_SERVER": "",
        **environment,
    }
    command = [sys.executable, "-m", "tallystick.cli", *words[1:]]
    return subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True)


@pytest.mark.integration
def test_the_database_is_migrated_and_again_without_harm(compose: dict[str, Any], empty_database_url: str) -> None:
    for _ in range(2):
        migrating = tally(compose, "migrate", empty_database_url)
        migrating.communicate()
        assert migrating.returncode == 0
    assert migrate(empty_database_url) == []


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are killed in the end, should they live on."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.integration
def test_service_and_worker_run_beside_each_other_and_end_when_told(
    compose: dict[str, Any], database_url: str, started: list[subprocess.Popen[str]]
) -> None:
    port = str(free_port())
    service = tally(compose, "service", database_url, "--json", TALLY_HOST="127.0.0.1", TALLY_PORT=port)
    started.append(service)
    worker = tally(compose, "worker", database_url, "--json")
    started.append(worker)
    for process in (service, worker):
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["pid"] == process.pid
    health = dockerfile.read(ROOT / "Dockerfile")[-1].command("HEALTHCHECK")
    asked = subprocess.run([sys.executable, *health[1:]], env=os.environ | {"TALLY_PORT": port}, check=False)
    assert asked.returncode == 0
    for process in (service, worker):
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.integration
def test_the_databases_health_check(compose: dict[str, Any], database_server: str) -> None:
    """By Debian's pg_isready, of our server and of one that is not there."""
    kind, *command = compose["services"]["postgres"]["healthcheck"]["test"]
    assert kind == "CMD"
    command[0] = program("pg_isready", "postgresql-client-common")
    with psycopg.connect(database_server) as connection:
        info = connection.info
        here = {"PGHOST": info.host or info.hostaddr, "PGPORT": str(info.port)}
    assert subprocess.run(command, env=os.environ | here, check=False).returncode == 0
    away = {"PGHOST": "127.0.0.1", "PGPORT": str(free_port())}
    assert subprocess.run(command, env=os.environ | away, check=False).returncode == 2


@pytest.mark.integration
def test_the_brokers_health_check(compose: dict[str, Any]) -> None:
    """By Debian's RabbitMQ, while it runs and when it has gone."""
    _, *command = compose["services"]["rabbitmq"]["healthcheck"]["test"]
    with running_rabbitmq() as node:
        command[0] = program(command[0], "rabbitmq-server", "/usr/lib/rabbitmq/bin")
        eventually(lambda: subprocess.run(command, env=node._environment(), check=False).returncode == 0, "health")
        node.kill()
        assert subprocess.run(command, env=node._environment(), capture_output=True, check=False).returncode != 0


@pytest.mark.integration
def test_tigerbeetle_makes_its_file_once(
    compose: dict[str, Any], tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    """``TIGERBEETLE_BIN`` names its program. A second start by the same command finds the file of the first."""
    binary = given_binary()
    if binary is None:
        pytest.skip("no TigerBeetle: set TIGERBEETLE_BIN to its program")
    service, port = compose["services"]["tigerbeetle"], free_port()
    (script,) = service["command"]
    script = script.replace("$$", "$").replace("/data/", f"{tmp_path}/").replace("/tigerbeetle ", f"{binary} ")
    script = script.replace("0.0.0.0:3000", f"127.0.0.1:{port}")
    program("nc", "netcat-openbsd")
    check = [*service["healthcheck"]["test"][1:-1], str(port)]
    files = set()
    for _ in range(2):
        started.append(subprocess.Popen([*service["entrypoint"], script], text=True))
        eventually(lambda: subprocess.run(check, check=False).returncode == 0, "health")
        files.add((tmp_path / "0_0.tigerbeetle").stat().st_ino)
        started[-1].terminate()
        started[-1].wait(60)
    assert len(files) == 1


# make


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("docker-build", ["build", "--tag", "tallystick"]),
        ("build-docker", ["build", "--tag", "ada/tallystick:"]),
        ("docker-up", ["compose", "up", "--detach"]),
        ("docker-logs", ["compose", "logs"]),
        ("docker-down", ["compose", "down"]),
        ("docker-clean", ["compose", "down", "--volumes"]),
        ("docker-build-dev", ["build", "--target", "dev"]),
        ("docker-run", ["compose", "--file", "compose.yaml", "--file", "packaging/compose.dev.yaml", "up", "service"]),
        ("docker-run-dev", ["compose", "up", "service"]),
    ],
)
def test_the_tasks_that_the_systems_before_promised(task: str, words: list[str], tmp_path: Path) -> None:
    """With a program in the place of docker that says what it was asked."""
    for name in ("Makefile", "pyproject.toml", "packaging"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = ["make", task, "DOCKER=echo", "DOCKER_USERNAME=ada", f"PYTHON={sys.executable}"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    asked = ran.stdout.split()
    for word in words:
        assert any(each.startswith(word) for each in asked), (word, asked)
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert task not in ("docker-build", "build-docker") or f"tallystick:{version[1]}" in ran.stdout
    assert (tmp_path / ".env").exists() is ("compose" in words)


async def test_a_password_beside_the_url_opens_the_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``compose.yaml`` gives it: so it is in no command line, and in no log."""
    monkeypatch.setenv("PGPASSWORD", "swordfish")
    async with await open_pool(database_url, size=1) as pool, pool.connection() as conn:
        assert conn.info.password == "swordfish"  # pragma: allowlist secret
