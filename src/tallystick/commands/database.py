"""``tally migrate`` and ``tally psql``: the database itself."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess

import typer
from psycopg import conninfo

from tallystick.commands import console
from tallystick.commands.books import database
from tallystick.commands.options import DataDir, Json, read_settings
from tallystick.database import migrate as migrations
from tallystick.database.binaries import Account, Binaries


def migrate(data_dir: DataDir = None, json: Json = False) -> None:
    """Bring the database to the newest schema. The service does so by itself when it starts."""
    with database(read_settings(data_dir=data_dir)) as url:
        applied = migrations.migrate(url)
    if json:
        console.print_json({"applied": applied})
    else:
        console.say("\n".join(f"applied {name}" for name in applied) or "The schema is the newest already.")


def psql(context: typer.Context, data_dir: DataDir = None) -> None:
    """Open a SQL prompt on the database. What follows is passed on to psql: tally psql -c 'table customers'."""
    me = pwd.getpwuid(os.geteuid())
    program = Binaries.for_account(Account(me.pw_name, me.pw_uid, me.pw_gid)).program("psql")
    with database(read_settings(data_dir=data_dir)) as url:
        parts = {name: str(part) for name, part in conninfo.conninfo_to_dict(url).items()}
        password = parts.pop("password", None)  # not into the command line, which everybody can read
        environment = os.environ | ({} if password is None else {"PGPASSWORD": password})
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends a query, not the prompt or the database below it
        command = [program, "--dbname", conninfo.make_conninfo(**parts), *context.args]
        code = subprocess.run(command, env=environment, check=False).returncode  # noqa: S603
    raise typer.Exit(code)
