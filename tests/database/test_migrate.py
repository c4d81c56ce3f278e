"""Migrations for real: each applied once, whole or not at all, however many start at once and whatever is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tallystick.database.migrate import MIGRATIONS, DatabaseNewer, migrate, pending
from tallystick.kernel.errors import Unavailable

STARTING_AT_ONCE = 3
MIGRATE = "import sys; from pathlib import Path; from tallystick.database.migrate import migrate; " + (
    "migrate(sys.argv[1], Path(sys.argv[2]))"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_one.sql").write_text("CREATE TABLE one (number int);\nINSERT INTO one VALUES (1);\n")
    (tmp_path / "0002_two.sql").write_text("INSERT INTO one VALUES (2);\nCREATE TABLE two ();\n")
    return tmp_path


def run(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement).fetchall()


def tables(url: str) -> set[object]:
    names = run(url, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    return {name for (name,) in names if "yoyo" not in str(name)}


def test_our_own(empty_database_url: str) -> None:
    names = sorted(path.stem for path in MIGRATIONS.glob("*.sql"))
    assert pending(empty_database_url) == names
    assert migrate(empty_database_url) == names
    assert pending(empty_database_url) == []
    assert migrate(empty_database_url) == []


def test_the_template_of_the_tests_is_migrated(database_url: str) -> None:
    assert pending(database_url) == []


def test_they_come_in_the_order_of_their_names(empty_database_url: str, folder: Path) -> None:
    assert migrate(empty_database_url, folder) == ["0001_one", "0002_two"]
    (folder / "0003_three.sql").write_text("CREATE TABLE three ();")
    assert pending(empty_database_url, folder) == ["0003_three"]
    assert migrate(empty_database_url, folder) == ["0003_three"]
    assert tables(empty_database_url) == {"one", "two", "three"}


def test_looking_at_what_is_pending_changes_nothing(empty_database_url: str, folder: Path) -> None:
    pending(empty_database_url, folder)
    assert run(empty_database_url, "SELECT 1 FROM information_schema.tables WHERE table_schema = 'public'") == []


def test_processes_that_start_at_once_apply_each_once(empty_database_url: str, folder: Path) -> None:
    (folder / "0001_one.sql").write_text("CREATE TABLE one (number int); DO $$ BEGIN PERFORM pg_sleep(0.2); END $$;")
    command = [sys.executable, "-c", MIGRATE, empty_database_url, str(folder)]
    processes = [subprocess.Popen(command) for _ in range(STARTING_AT_ONCE)]
    assert [process.wait() for process in processes] == [0] * STARTING_AT_ONCE
    assert run(empty_database_url, "SELECT number FROM one") == [(2,)]


def test_one_that_is_refused_leaves_nothing_and_can_be_repaired(empty_database_url: str, folder: Path) -> None:
    good = (folder / "0002_two.sql").read_text()
    (folder / "0002_two.sql").write_text(good + "SELECT nonsense;")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        migrate(empty_database_url, folder)
    assert tables(empty_database_url) == {"one"}
    assert run(empty_database_url, "SELECT number FROM one") == [(1,)]
    (folder / "0002_two.sql").write_text(good)
    assert migrate(empty_database_url, folder) == ["0002_two"]


def test_a_session_killed_in_the_middle_leaves_neither_half_a_migration_nor_a_lock(
    empty_database_url: str, folder: Path
) -> None:
    good = (folder / "0002_two.sql").read_text()
    (folder / "0002_two.sql").write_text(good + "DO $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); END $$;")
    with pytest.raises(psycopg.OperationalError):
        migrate(empty_database_url, folder)
    (folder / "0002_two.sql").write_text(good)
    assert migrate(empty_database_url, folder) == ["0002_two"]
    assert run(empty_database_url, "SELECT number FROM one ORDER BY number") == [(1,), (2,)]


def test_a_migration_and_its_mark_are_one_transaction(empty_database_url: str, folder: Path) -> None:
    migrate(empty_database_url, folder)
    made_by = "SELECT xmin::text FROM pg_class WHERE relname = 'two'"
    marked_by = "SELECT xmin::text FROM _yoyo_migration WHERE migration_id = '0002_two'"
    assert run(empty_database_url, made_by) == run(empty_database_url, marked_by)


def test_functions_with_semicolons(empty_database_url: str, folder: Path) -> None:
    (folder / "0003_function.sql").write_text(
        """
        -- a comment; with a semicolon
        CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql AS $body$
        DECLARE result int;
        BEGIN
            IF n IS NULL THEN RAISE EXCEPTION 'no; number'; END IF;
            result := CASE WHEN n = 0 THEN 0 ELSE 2 * n END;
            RETURN result;
        END
        $body$;
        CREATE FUNCTION thrice(n int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 3 * n; END;
        COMMENT ON FUNCTION twice IS '100 %; of it';
        """
    )
    migrate(empty_database_url, folder)
    assert run(empty_database_url, "SELECT twice(3), thrice(3)") == [(6, 9)]


def test_a_database_of_a_newer_version_is_left_alone(empty_database_url: str, folder: Path) -> None:
    migrate(empty_database_url, folder)
    (folder / "0002_two.sql").unlink()
    (folder / "0003_three.sql").write_text("CREATE TABLE three ();")
    for call in (migrate, pending):
        with pytest.raises(DatabaseNewer, match="0002_two"):
            call(empty_database_url, folder)
    assert tables(empty_database_url) == {"one", "two"}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tally:s3cret@/tally?host=/nowhere",  # pragma: allowlist secret
        "host=/nowhere user=tally password=s3cret",
        "tally:s3cret@localhost",
    ],
)
def test_a_database_that_is_not_there(url: str) -> None:
    with pytest.raises(Unavailable) as refusal:
        migrate(url)
    assert "s3cret" not in str(refusal.value)
