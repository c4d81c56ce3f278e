"""The command ``tally``."""

from __future__ import annotations

import platform
import sys
import traceback

import psycopg
import typer

import tallystick
from tallystick.commands import console, customers, jobs, keys, ledger, notices, prices, quarantine, webhooks
from tallystick.commands.database import migrate, psql
from tallystick.commands.importing import import_files
from tallystick.commands.options import ExitCode, Json
from tallystick.commands.post import post
from tallystick.commands.proof import explain, verify
from tallystick.commands.pull import pull_usage
from tallystick.commands.serve import serve
from tallystick.commands.sweep import sweep
from tallystick.commands.token import token
from tallystick.commands.usage import usage
from tallystick.commands.worker import worker
from tallystick.database.embedded import DataFolderInUse
from tallystick.demo.play import demo
from tallystick.kernel.errors import InvalidInput, TallyError
from tallystick.operations.logging import configure_logging

HELP = """Tallystick: usage in, money out, nothing lost.

Commands work on the database of `TALLY_DATABASE_URL`, or else on the embedded one in the data folder, whether a service
runs on it or not; with `--url` they ask a running service.

Exit status: **0** done; **1** no (the books do not hold, something was rejected, there is no such thing); **2** wrong
usage; **3** the database or the service cannot be reached, or the data folder is in use; **4** a defect of Tallystick;
**130** stopped by Ctrl-C.
"""

app = typer.Typer(
    name="tally",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(serve)
app.command()(worker)
app.command()(demo)
app.command("import")(import_files)
app.command("pull")(pull_usage)
app.command()(sweep)
app.add_typer(customers.app, name="customers")
app.add_typer(prices.app, name="prices")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(ledger.app, name="ledger")
app.add_typer(jobs.app, name="jobs")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(keys.app, name="key")
app.add_typer(notices.app, name="notice")
app.command()(usage)
app.command()(post)
app.command()(verify)
app.command()(explain)
app.command()(token)
app.command()(migrate)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(psql)


@app.command()
def version(json: Json = False) -> None:
    """Print the version."""
    if json:
        console.print_json({"version": tallystick.__version__, "python": platform.python_version()})
    else:
        console.say(tallystick.__version__)


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit status."""
    as_json = "--json" in arguments  # known before the line is understood, since errors in it are JSON as well
    configure_logging("WARNING")
    try:
        return app(arguments, standalone_mode=False) or ExitCode.DONE
    except typer.TyperException as error:
        if message := error.format_message():  # without one, the help has been shown
            console.print_error("usage", message, as_json=as_json)
        return error.exit_code
    except TallyError as error:
        console.print_error(error.code, error.detail, error.field, as_json=as_json)
        return _exit_code(error)
    except psycopg.OperationalError:
        console.print_error("unavailable", "the database cannot be reached", as_json=as_json)
        return ExitCode.UNREACHABLE
    except OSError as error:
        console.print_error("unavailable", str(error), as_json=as_json)
        return ExitCode.UNREACHABLE
    except Exception as error:
        traceback.print_exc()
        console.print_error("defect", f"a defect of Tallystick: {type(error).__name__}", as_json=as_json)
        return ExitCode.DEFECT


def _exit_code(error: TallyError) -> ExitCode:
    if isinstance(error, DataFolderInUse) or error.status >= 500:
        return ExitCode.UNREACHABLE
    return ExitCode.USAGE if error.status == InvalidInput.status else ExitCode.NO


def main() -> None:
    """The entry point of the command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
