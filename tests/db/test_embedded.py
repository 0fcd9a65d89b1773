"""The embedded PostgreSQL survives what happens to local servers: kills, races, closed folders, copied data."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from app.db import embedded
from app.db.embedded import EmbeddedPostgres, EmbeddedPostgresError

pytestmark = pytest.mark.xdist_group("waits")

OURS = os.sched_getscheduler(0)
"""How these tests themselves are scheduled."""
JOIN_AND_WAIT = """
import sys
from pathlib import Path
from app.db.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1]), durable=False) as server:
    print(server.admin_url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that any user may reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="tradeverdict-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def start_in_another_process(data_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOIN_AND_WAIT, str(data_dir)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def address_printed_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def postmaster_pid(server: EmbeddedPostgres) -> int:
    return int((server.cluster / "postmaster.pid").read_text().split("\n")[0])


def accepts_connections(server: EmbeddedPostgres) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int((server.home / "port").read_text()))) == 0


async def fetch(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def remember(server: EmbeddedPostgres, number: int) -> None:
    await fetch(server.admin_url, f"CREATE TABLE remembered AS SELECT {number} AS number")


async def remembered(server: EmbeddedPostgres) -> object:
    return await fetch(server.admin_url, "SELECT number FROM remembered")


async def test_serves_utf8_on_loopback_only(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert await fetch(server.admin_url, "SHOW server_encoding") == "UTF8"
        assert await fetch(server.admin_url, "SHOW listen_addresses") == "127.0.0.1"
        assert await fetch(server.admin_url, "SHOW unix_socket_directories") == ""

    assert not accepts_connections(server)


@pytest.mark.parametrize("durable", [True, False])
async def test_syncs_to_disk_only_when_durable(data_dir: Path, durable: bool) -> None:
    with EmbeddedPostgres(data_dir, durable=durable) as server:
        assert await fetch(server.admin_url, "SHOW fsync") == ("on" if durable else "off")


def policies() -> list[int]:
    """How this thread is scheduled, and what another program that it starts would be."""
    asked = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]
    return [os.sched_getscheduler(0), int(subprocess.run(asked, capture_output=True, check=True).stdout)]


async def test_its_processes_do_not_drive_others_off_their_core(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        connection = await asyncpg.connect(server.admin_url)
        backend: int = await connection.fetchval("SELECT pg_backend_pid()")
        scheduled = {os.sched_getscheduler(pid) for pid in (backend, postmaster_pid(server))}
        await connection.close()

    assert scheduled == {os.SCHED_BATCH if OURS == os.SCHED_OTHER else OURS}
    assert policies() == [OURS, OURS]


async def test_starts_where_scheduling_is_not_ours_to_choose(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)

    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert os.sched_getscheduler(postmaster_pid(server)) == OURS


async def test_starts_where_there_is_no_such_scheduling(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setscheduler")

    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert os.sched_getscheduler(postmaster_pid(server)) == OURS


def test_what_is_scheduled_otherwise_on_purpose_stays_so() -> None:
    program = """
import os
from app.db.embedded import _yielding
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
with _yielding():
    print(os.sched_getscheduler(0))
print(os.sched_getscheduler(0))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ran.stdout.split() == [str(os.SCHED_IDLE)] * 2


async def test_lets_nobody_in_without_the_password(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        password = (server.home / "password").read_text()

        with pytest.raises(asyncpg.InvalidPasswordError):
            await fetch(server.admin_url.replace(password, "guess"), "SELECT 1")
        assert (server.home / "password").stat().st_mode & 0o777 == 0o600
        assert server.home.stat().st_mode & 0o777 == 0o700


async def test_a_restart_keeps_data_and_port(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, durable=False)
    with server:
        await remember(server, 7)
        first_url = server.admin_url
    with server:
        assert server.admin_url == first_url
        assert await remembered(server) == 7


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT])  # SIGQUIT is PostgreSQL's immediate shutdown
async def test_recovers_after_a_crash(data_dir: Path, how: signal.Signals) -> None:
    with EmbeddedPostgres(data_dir) as server:
        await remember(server, 7)
        os.kill(postmaster_pid(server), how)
        while accepts_connections(server):
            await asyncio.sleep(0.01)
        server.start()

        assert await remembered(server) == 7


def test_starts_although_the_pid_file_names_another_program(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, durable=False)
    with server:
        left_behind = (server.cluster / "postmaster.pid").read_text()
    # The other program runs as the server's user: PostgreSQL itself takes such a process for a server.
    with subprocess.Popen(["sleep", "60"], user=server.home.stat().st_uid) as stranger:
        (server.cluster / "postmaster.pid").write_text(left_behind.replace(left_behind.split()[0], str(stranger.pid)))
        with server:
            assert postmaster_pid(server) != stranger.pid
        stranger.kill()


def test_starts_although_the_pid_file_names_a_zombie(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, durable=False)
    with server:
        left_behind = (server.cluster / "postmaster.pid").read_text()
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as zombie:
        assert zombie.stdout is not None
        zombie.stdout.read()  # it has exited, but nobody has waited for it
        (server.cluster / "postmaster.pid").write_text(left_behind.replace(left_behind.split()[0], str(zombie.pid)))
        with server:
            assert postmaster_pid(server) != zombie.pid


async def test_two_processes_starting_at_once_share_one_server_until_the_last_leaves(data_dir: Path) -> None:
    with start_in_another_process(data_dir) as first, start_in_another_process(data_dir) as second:
        url = address_printed_by(first)

        assert address_printed_by(second) == url
        first.communicate()
        assert await fetch(url, "SELECT 1") == 1
        second.communicate()
        with pytest.raises(ConnectionRefusedError):
            await fetch(url, "SELECT 1")


async def test_a_server_whose_process_was_killed_is_joined_and_later_stopped(data_dir: Path) -> None:
    with start_in_another_process(data_dir) as killed:
        url = address_printed_by(killed)
        killed.kill()
    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert server.admin_url == url
        assert await fetch(url, "SELECT 1") == 1

    assert not accepts_connections(server)


async def test_moves_to_another_port_when_its_own_was_taken(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, durable=False)
    with server:
        port = int((server.home / "port").read_text())
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        with server:
            assert f":{port}/" not in server.admin_url
            assert await fetch(server.admin_url, "SELECT 1") == 1


async def test_a_copy_of_the_folder_does_not_take_the_original_server_for_its_own(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir / "original", durable=False) as original:
        await remember(original, 7)
    with original:
        subprocess.run(["cp", "-a", data_dir / "original", data_dir / "copy"], check=True)
        with EmbeddedPostgres(data_dir / "copy", durable=False) as copy:
            assert copy.admin_url != original.admin_url
            assert await fetch(copy.admin_url, "SHOW data_directory") == str(copy.cluster)
            assert await remembered(copy) == 7


def test_starts_over_after_an_interrupted_creation(data_dir: Path) -> None:
    (data_dir / "postgres" / "cluster.new" / "half").mkdir(parents=True)
    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert accepts_connections(server)


def test_a_long_path_with_a_space_is_no_obstacle(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir / ("a long folder name " * 10).strip(), durable=False) as server:
        assert accepts_connections(server)


async def test_copies_and_drops_databases_by_name(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        url = server.ensure_database("template")
        await fetch(url, "CREATE TABLE copied AS SELECT 7 AS number")

        assert server.ensure_database("template") == url
        assert await fetch(server.create_database("copy", template="template"), "SELECT number FROM copied") == 7
        with pytest.raises(EmbeddedPostgresError, match='"copy" already exists'):
            server.create_database("copy")
        server.drop_database("copy")
        server.create_database("copy")
        with pytest.raises(ValueError, match="not a plain database name"):
            server.create_database('x"; DROP DATABASE template; --')


def test_says_what_to_do_without_the_wheel(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)

    with pytest.raises(EmbeddedPostgresError, match="install the `local` extra or set DATABASE_URL"):
        EmbeddedPostgres(data_dir / "none").start()
    assert not (data_dir / "none").exists()


def test_says_why_it_does_not_start(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_START_S", 0.5)
    server = EmbeddedPostgres(data_dir, durable=False)
    with server:
        pass
    (server.cluster / "global" / "pg_control").unlink()

    with pytest.raises(EmbeddedPostgresError, match=r"does not start \(.*postgres\.log\): .*pg_control"):
        server.start()


def test_says_which_folder_it_cannot_use(data_dir: Path) -> None:
    (data_dir / "postgres").write_text("a file where the folder should be")

    with pytest.raises(EmbeddedPostgresError, match=f"cannot use {data_dir}/postgres"):
        EmbeddedPostgres(data_dir).start()


DAC_READ_SEARCH = 1 << 2
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run the server as someone else")


def identity(server: EmbeddedPostgres) -> tuple[int, int]:
    """The uid of the server and the bits of its effective capabilities."""
    lines = Path("/proc", str(postmaster_pid(server)), "status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    return int(status["Uid"].split()[0]), int(status["CapEff"], 16)


def is_open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)


@as_root
def test_root_runs_it_below_a_folder_closed_to_others_and_leaves_the_folder_closed(data_dir: Path) -> None:
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    with EmbeddedPostgres(closed / "checkout" / ".data", durable=False) as server:
        uid, capabilities = identity(server)

        assert uid == server.home.stat().st_uid != 0
        assert capabilities == DAC_READ_SEARCH
        assert closed.stat().st_mode & 0o777 == 0o700
        assert closed.stat().st_uid == 0


@as_root
def test_root_gives_it_no_capability_where_every_folder_is_open(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        uid, capabilities = identity(server)

        assert uid != 0
        assert capabilities == (0 if is_open_to_all(embedded._programs() / "postgres") else DAC_READ_SEARCH)


@as_root
def test_root_joins_the_server_of_an_ordinary_user_as_that_user(data_dir: Path) -> None:
    home = data_dir / "postgres"
    home.mkdir(mode=0o700)
    shutil.chown(home, "daemon", "daemon")
    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert identity(server)[0] == home.stat().st_uid


@as_root
def test_root_is_told_what_to_do_where_privileges_cannot_be_dropped(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_DROP_ROOT", ("no-such-program",))

    with pytest.raises(EmbeddedPostgresError, match="as an ordinary user, or set DATABASE_URL"):
        EmbeddedPostgres(data_dir).start()
