"""The embedded server for real: as root and as an ordinary user, started, stopped, and killed in every way."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
from psycopg import pq

from tallystick.database import binaries, launch
from tallystick.database.binaries import Account, Binaries, EmbeddedPostgresFailed
from tallystick.database.embedded import DataFolderInUse, EmbeddedPostgres, attach

pytestmark = pytest.mark.integration

SOURCE = Path(__file__).parents[2] / "src"
POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
PATIENCE_SECONDS = 60
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a server as somebody else")

SERVICE = """
import sys
from pathlib import Path
from tallystick.database.embedded import EmbeddedPostgres

with EmbeddedPostgres.start(Path(sys.argv[1]), report=lambda state: None) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"  # as root, below folders that only root can enter


@contextmanager
def service(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that keeps a server in ``data_dir``, and the server's URL. Ends by kill -9, here at last."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        yield process, process.stdout.readline().strip()
    finally:
        servers = descendants(process.pid)
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        wait_for_end(servers)


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def wait_for_end(processes: list[psutil.Process]) -> None:
    """Returns once all have ended; those that lost their parent may stay listed until init takes notice of it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(has_ended(process) for process in processes):
        assert time.monotonic() < deadline
        os.sched_yield()


def has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def run(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def postmaster(url: str) -> psutil.Process:
    return psutil.Process(int(str(run(url, "SELECT pg_read_file('postmaster.pid', 0, 20)")[0][0]).split()[0]))


def remember(url: str) -> None:
    run(url, "CREATE TABLE kept (word text)")
    run(url, "INSERT INTO kept VALUES ('said')")


def remembered(url: str) -> bool:
    return run(url, "SELECT word FROM kept") == [("said",)]


def wait_until_answers(url: str) -> None:
    while pq.PGconn.ping(url.encode()) != pq.Ping.OK:
        time.sleep(0.01)  # between two looks; pytest's time limit ends them


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}


def test_the_server_is_as_we_want_it(data_dir: Path) -> None:
    with EmbeddedPostgres.start(data_dir) as server:
        names = (
            "fsync",
            "synchronous_commit",
            "data_checksums",
            "listen_addresses",
            "TimeZone",
            "jit",
            "server_encoding",
        )
        settings = {name: run(server.url, f"SHOW {name}")[0][0] for name in names}
        assert settings == {
            "fsync": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "listen_addresses": "",
            "TimeZone": "UTC",
            "jit": "off",
            "server_encoding": "UTF8",
        }
        assert run(server.url, "SELECT current_database(), current_user") == [("tally", "tally")]
        assert run(server.url, "SELECT lower('ÄÖ'), 'Z' < 'a'") == [("äö", True)]
        assert run(
            server.url, "SELECT '2026-07-01 12:00Z'::timestamptz AT TIME ZONE 'America/New_York' = '2026-07-01 08:00'"
        ) == [(True,)]


def test_psql_understands_the_url(data_dir: Path) -> None:
    with EmbeddedPostgres.start(data_dir) as server:
        psql = Binaries.for_account(Account.numbered(data_dir.joinpath("postgres/cluster").stat().st_uid)).program(
            "psql"
        )
        answer = subprocess.run([psql, server.url, "-Atc", "SELECT 6 * 7"], capture_output=True, text=True, check=True)
        assert answer.stdout == "42\n"


def test_a_second_start_finds_what_the_first_kept(data_dir: Path) -> None:
    with EmbeddedPostgres.start(data_dir) as server:
        remember(server.url)
    with EmbeddedPostgres.start(data_dir) as server:
        assert remembered(server.url)


def test_a_moved_data_folder_still_works(data_dir: Path) -> None:
    with EmbeddedPostgres.start(data_dir) as server:
        remember(server.url)
    moved = data_dir.rename(data_dir.with_name("elsewhere"))
    with EmbeddedPostgres.start(moved) as server:
        assert remembered(server.url)


def test_only_the_owner_can_read_anything_and_nothing_outside_is_touched(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o755)
    before = {parent: parent.stat() for parent in (data_dir, *data_dir.parents)}
    with EmbeddedPostgres.start(data_dir):
        for parent, was in before.items():
            now = parent.stat()
            assert (now.st_mode, now.st_uid, now.st_gid) == (was.st_mode, was.st_uid, was.st_gid), parent
        open_to_others = {name for name, mode in modes(data_dir).items() if mode & 0o007}
        open_to_group = {name for name, mode in modes(data_dir).items() if mode & 0o070}
    assert open_to_others == set()
    configuration = {"postgres", "postgres/postgresql.conf", "postgres/pg_hba.conf", "postgres/pg_ident.conf"}
    assert open_to_group == (configuration if os.geteuid() == 0 else set())


@as_root
@pytest.mark.parametrize(("name", "answer"), [("root", "1\n"), ("nobody", ""), ("daemon", "")])
def test_other_users_of_the_machine_are_refused(data_dir: Path, name: str, answer: str) -> None:
    user = Account.named(name) if name != "root" else Account("root", 0, 0)
    with EmbeddedPostgres.start(data_dir):
        run_folder = data_dir / "postgres/run"  # suppose that the folders did not protect the socket
        run_folder.chmod(0o711)
        (run_folder / ".s.PGSQL.5432").chmod(0o777)
        way = os.open(run_folder, os.O_RDONLY)
        psql = Binaries.for_account(Account.named("nobody")).program("psql")
        query = [psql, f"postgresql://tally@/tally?host=/proc/self/fd/{way}", "-Atc", "SELECT 1"]
        said = subprocess.run(
            launch.command(query, uid=user.uid, gid=user.gid, death_signal=signal.SIGKILL),
            pass_fds=(way,),
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(way)
    assert said.stdout == answer
    assert answer or "Peer authentication failed" in said.stderr


def test_a_second_service_is_told_who_has_the_folder(data_dir: Path) -> None:
    with service(data_dir) as (holder, _), pytest.raises(DataFolderInUse) as refusal:
        EmbeddedPostgres.start(data_dir)
    assert str(data_dir) in str(refusal.value)
    assert f"process {holder.pid}" in str(refusal.value)


def test_the_server_does_not_hold_the_lock_of_the_folder(data_dir: Path) -> None:
    with EmbeddedPostgres.start(data_dir) as server:
        opened = {link.readlink() for link in Path(f"/proc/{postmaster(server.url).pid}/fd").iterdir()}
    assert (data_dir / "tally.lock") not in opened


def test_attach_finds_the_server_of_a_running_service_only(data_dir: Path) -> None:
    assert attach(data_dir) is None
    with EmbeddedPostgres.start(data_dir) as server:
        assert attach(data_dir) == server.url
        assert stat.S_IMODE((data_dir / "database-url").stat().st_mode) == 0o600
    assert attach(data_dir) is None
    with service(data_dir) as (_, url):
        assert attach(data_dir) == url
    assert attach(data_dir) is None  # killed, so it could not take its URL away


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 30)
    with service(long) as (_, url):
        assert run(url, "SELECT 1") == [(1,)]
        assert attach(long) == url


def test_the_server_outlives_the_thread_that_started_it_and_ctrl_c(data_dir: Path) -> None:
    started: list[EmbeddedPostgres] = []
    thread = threading.Thread(target=lambda: started.append(EmbeddedPostgres.start(data_dir)))
    thread.start()
    thread.join()
    with started[0] as server:
        assert os.getsid(postmaster(server.url).pid) != os.getsid(0)


def test_stop_ends_every_process_and_may_be_repeated(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    main = postmaster(server.url)
    server.stop()
    server.stop()
    assert not main.is_running()


class TestKilled:
    def test_only_the_service(self, data_dir: Path) -> None:
        with service(data_dir) as (killed, url):
            remember(url)
            servers = descendants(killed.pid)
            killed.kill()
            killed.wait()
            with EmbeddedPostgres.start(data_dir) as server:  # at once: the old server may still be ending
                wait_for_end(servers)
                assert remembered(server.url)

    def test_everything(self, data_dir: Path) -> None:
        with service(data_dir) as (killed, url):
            remember(url)
            servers = descendants(killed.pid)
            everything = (psutil.Process(killed.pid), *servers)
            for act in (
                psutil.Process.suspend,
                psutil.Process.kill,
            ):  # or the first's death would have others end in order
                for process in everything:
                    with suppress(psutil.NoSuchProcess):  # workers come and go
                        act(process)
            wait_for_end(servers)
        assert (data_dir / "postgres/cluster/postmaster.pid").exists()
        with EmbeddedPostgres.start(data_dir) as server:
            assert remembered(server.url)

    def test_a_backend(self, data_dir: Path) -> None:
        with EmbeddedPostgres.start(data_dir) as server:
            remember(server.url)
            main = postmaster(server.url)
            with psycopg.connect(server.url) as victim, psycopg.connect(server.url) as witness:
                os.kill(victim.info.backend_pid, signal.SIGKILL)
                with pytest.raises(psycopg.OperationalError):  # the server ends all when one of its processes dies
                    witness.execute("SELECT pg_sleep(60)")
            wait_until_answers(server.url)
            assert remembered(server.url)
            assert postmaster(server.url) == main

    def test_the_main_process_of_the_server(self, data_dir: Path) -> None:
        with EmbeddedPostgres.start(data_dir) as server:
            remember(server.url)
            main = postmaster(server.url)
            main.kill()
            wait_for_end([main])
            wait_until_answers(server.url)
            assert remembered(server.url)
            assert postmaster(server.url) != main

    def test_the_making_of_the_database(self, data_dir: Path) -> None:
        process = subprocess.Popen([sys.executable, "-c", SERVICE, str(data_dir)])
        while not list(data_dir.glob("postgres/cluster.new-*/base")):
            assert process.poll() is None
        process.kill()
        process.wait()
        assert not (data_dir / "postgres/cluster").exists()
        with EmbeddedPostgres.start(data_dir) as server:
            assert run(server.url, "SELECT 1") == [(1,)]

    def test_remains_are_cleared_away(self, data_dir: Path) -> None:
        EmbeddedPostgres.start(data_dir).stop()
        home = data_dir / "postgres"
        (home / "cluster.new-killed/base").mkdir(parents=True)
        owner = home.joinpath("cluster").stat()
        sleep = launch.command(["/bin/sleep", "60"], uid=owner.st_uid, gid=owner.st_gid, death_signal=signal.SIGKILL)
        with subprocess.Popen(sleep) as bystander:  # by now has the process id that the old server had
            (home / "cluster/postmaster.pid").write_text(
                f"{bystander.pid}\n{home}/cluster\n1\n5432\n../run\n\n1 1\nready\n"
            )
            (home / "run/.s.PGSQL.5432.lock").write_text(f"{bystander.pid}\n{home}/cluster\n1\n5432\n../run\n")
            (home / "run/.s.PGSQL.5432").touch()
            with EmbeddedPostgres.start(data_dir) as server:
                assert run(server.url, "SELECT 1") == [(1,)]
            assert bystander.poll() is None
            bystander.kill()
        assert not (home / "cluster.new-killed").exists()


class TestRefusals:
    def test_a_machine_without_the_wheel(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(EmbeddedPostgresFailed, match="TALLY_DATABASE_URL"):
            EmbeddedPostgres.start(data_dir)

    def test_programs_that_do_not_run(self, data_dir: Path, tmp_path: Path) -> None:
        (broken := tmp_path / "other/bin").mkdir(parents=True)
        (broken / "postgres").write_text("not a program")
        with pytest.raises(EmbeddedPostgresFailed, match="do not run on this machine"):
            EmbeddedPostgres.start(data_dir, binaries=broken)

    def test_a_database_of_another_version(self, data_dir: Path) -> None:
        EmbeddedPostgres.start(data_dir).stop()
        (data_dir / "postgres/cluster/PG_VERSION").write_text("14\n")
        with pytest.raises(EmbeddedPostgresFailed, match="made by PostgreSQL 14"):
            EmbeddedPostgres.start(data_dir)

    def test_a_server_that_cannot_start_says_why_and_leaves_the_folder_free(self, data_dir: Path) -> None:
        EmbeddedPostgres.start(data_dir).stop()
        override = data_dir / "postgres/cluster/postgresql.auto.conf"
        override.write_text("shared_buffers = 'plenty'\n")
        with pytest.raises(EmbeddedPostgresFailed, match="configuration file"):
            EmbeddedPostgres.start(data_dir)
        override.write_text("")
        EmbeddedPostgres.start(data_dir).stop()

    def test_a_server_that_is_not_ready_in_time_is_ended(self, data_dir: Path) -> None:
        with pytest.raises(EmbeddedPostgresFailed, match="not ready after 0 s"):
            EmbeddedPostgres.start(data_dir, timeout_seconds=0)
        EmbeddedPostgres.start(data_dir).stop()

    @as_root
    @pytest.mark.parametrize("name", ["root", "no-such-user"])
    def test_an_impossible_user(self, data_dir: Path, name: str) -> None:
        with pytest.raises(EmbeddedPostgresFailed, match="TALLY_POSTGRES_USER"):
            EmbeddedPostgres.start(data_dir, server_user=name)


@as_root
def test_root_runs_the_server_as_another_user_below_folders_that_only_root_can_enter(data_dir: Path) -> None:
    assert any(parent.stat().st_mode & 0o077 == 0 for parent in data_dir.parents)
    with EmbeddedPostgres.start(data_dir, server_user="daemon") as server:
        assert postmaster(server.url).username() == "daemon"
    with EmbeddedPostgres.start(data_dir, server_user="nobody") as server:
        assert postmaster(server.url).username() == "daemon", "the files' owner counts, once there are files"


@as_root
def test_root_copies_programs_that_the_other_user_cannot_reach(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = metadata.distribution(binaries.WHEEL)
    for file in wheel.files or ():
        if "pginstall" not in file.parts:  # an older major version
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), tmp_path / file)
    monkeypatch.syspath_prepend(tmp_path)
    with tempfile.TemporaryDirectory() as reachable:
        Path(reachable).chmod(0o755)
        monkeypatch.setattr(binaries, "REACHABLE_COPIES", Path(reachable))
        for _ in range(2):
            with EmbeddedPostgres.start(data_dir) as server:
                assert Path(postmaster(server.url).exe()).is_relative_to(reachable)
                assert len(list(Path(reachable).iterdir())) == 1


@as_root
def test_an_ordinary_user() -> None:
    """Runs what matters of this module again as ``nobody``, in a folder of theirs."""
    user = pwd.getpwnam("nobody")
    python = next((python for python in interpreters() if runs(python, user)), None)
    if python is None:
        pytest.skip("no interpreter here can be reached by nobody")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, user.pw_uid, user.pw_gid)
        done = subprocess.run(
            [
                python,
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                f"--basetemp={folder}/t",
                "-k",
                "owner or Killed",
                __file__,
            ],
            cwd=SOURCE.parent,
            env={"PATH": os.defpath, "HOME": folder, "PYTHONPATH": search_path(), "PYTHONDONTWRITEBYTECODE": "1"},
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr


def interpreters() -> list[str]:
    """This one, and the system's if it is of the same version (ours may lie in a folder of root's)."""
    return [sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"]


def search_path() -> str:
    return os.pathsep.join(path for path in sys.path if path.endswith(("site-packages", "/src")))


def runs(python: str, user: pwd.struct_passwd) -> bool:
    try:
        return (
            subprocess.run(
                [python, "-c", "import psycopg, pytest"],
                cwd="/",
                env={"PYTHONPATH": search_path()},
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
                capture_output=True,
                check=False,
            ).returncode
            == 0
        )
    except OSError:
        return False


@pytest.mark.skipif(not POSTGRES_15.is_dir(), reason="Debian's PostgreSQL 15 is not installed")
def test_other_binaries(data_dir: Path) -> None:
    with EmbeddedPostgres.start(data_dir, binaries=POSTGRES_15) as server:
        assert run(server.url, "SELECT current_setting('server_version_num')::int / 10000") == [(15,)]
    with pytest.raises(EmbeddedPostgresFailed, match="made by PostgreSQL 15"):
        EmbeddedPostgres.start(data_dir)
