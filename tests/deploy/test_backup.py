"""A backup can be restored: every row, the calibration, the rights and every answer are there again."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import pytest

from app.db.embedded import EmbeddedPostgres, _programs
from app.domain.proposal import ModelFailure
from app.main import create_app
from tests.api.conftest import client_of, execute, settings_for
from tests.api.desk import Desk
from tests.builders import a_request
from tests.fakes import FakeDecider
from tests.faults.processes import PROGRAM

pytestmark = pytest.mark.xdist_group("waits")

SCRIPTS = Path(__file__).parents[2] / "deploy" / "backup"
PASSWORD = "p@ss/w%rd:\\x $1"

_numbers = count(1)


@pytest.fixture(scope="module")
def original(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """A database with decisions, a trade from claim to close, keys used once, a halt and outcomes."""
    url = postgres.create_database("backed_up", template=migrated_template)
    decider = FakeDecider()
    with client_of(create_app(settings_for(url), decider=decider)) as client:
        desk = Desk(client, decider, "paper-1")
        for number, price in enumerate(("137.00", "119.80", "119.80")):
            desk = Desk(client, decider, f"paper-{number}")
            decision = desk.approved()
            desk.told(decision, "claimed")
            desk.told(decision, "filled")
            desk.told(decision, "closed", price=price, quantity=53, exit_reason="target" if number == 0 else "stop")
        decider.will(ModelFailure.TIMEOUT)
        keyed = client.post("/decide", json=a_request(account={"id": "paper-9"}), headers={"idempotency-key": "k-1"})
        assert keyed.status_code == 200
        halt = {"account_id": "paper-9", "state": "halted", "reason": "drill", "operator": "ana"}
        assert client.post("/halt", json=halt).status_code < 300
    yield url
    postgres.drop_database("backed_up")


@pytest.fixture
def empty(postgres: EmbeddedPostgres) -> Iterator[str]:
    """An empty database."""
    name = f"restored_{next(_numbers)}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


def run(script: str, *arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run one of the scripts with the programs of the embedded server."""
    told: Mapping[str, str] = {"PATH": os.defpath, "PG_BIN": str(_programs()), "TRADEVERDICT": str(PROGRAM)}
    return subprocess.run(
        [SCRIPTS / script, *arguments], env={**told, **environment}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def backup(original: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it."""
    file = tmp_path_factory.mktemp("backups") / "tradeverdict.dump"
    done = run("backup.sh", file, DATABASE_URL=original)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return file


def tables(url: str) -> dict[str, Any]:
    """How many rows every table has."""
    names = execute(url, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1")
    return {row[0]: execute(url, f"SELECT count(*) FROM {row[0]}")[0][0] for row in names}


def test_a_restore_can_be_rehearsed(original: str, empty: str, tmp_path: Path) -> None:
    done = run(
        "rehearse.sh", DATABASE_URL=original, SCRATCH_DATABASE_URL=empty, HOME=str(tmp_path), TMPDIR=str(tmp_path)
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "calibration: the same" in done.stdout
    assert "rights: the service may read and append decisions, and not change them" in done.stdout
    assert "4 decisions replayed: 4 identical to the byte, 0 different" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert tables(empty) == tables(original)
    assert tables(original)["llm_decisions"] == 4
    with client_of(create_app(settings_for(original))) as one, client_of(create_app(settings_for(empty))) as other:
        reports = [client.get("/calibration").json() for client in (one, other)]
        again = other.post("/decide", json=a_request(account={"id": "paper-9"}), headers={"idempotency-key": "k-1"})
        new = other.post("/decide", json=a_request(account={"id": "paper-9"}))
    assert reports[0] == reports[1]
    assert reports[0]["scored"] == 3
    assert again.headers["idempotency-replayed"] == "true"
    assert new.json()["reason_code"] == "HALTED"


def test_the_copy_refuses_what_the_original_refuses(backup: Path, empty: str) -> None:
    assert run("restore.sh", backup, DATABASE_URL=empty).returncode == 0

    for role, refusal in (("tradeverdict_app", "permission denied"), (None, "append-only")):
        change = "UPDATE llm_decisions SET degraded = true"
        with pytest.raises(Exception, match=refusal):
            execute_as(empty, role, change)


def execute_as(url: str, role: str | None, statement: str) -> None:
    execute(url, f"DO $$ BEGIN {f'SET LOCAL ROLE {role};' if role else ''} {statement}; END $$")


def test_a_backup_is_private_and_never_written_over(backup: Path, original: str) -> None:
    before = backup.read_bytes()

    again = run("backup.sh", backup, DATABASE_URL=original)

    assert (again.returncode, again.stderr) == (2, f"backup.sh: {backup} exists: backups are not written over\n")
    assert backup.read_bytes() == before
    assert {path.name: path.stat().st_mode & 0o777 for path in backup.parent.iterdir()} == {
        "tradeverdict.dump": 0o600,
        "tradeverdict.dump.counts": 0o600,
    }


def test_nothing_is_restored_over_what_is_there(backup: Path, original: str) -> None:
    before = tables(original)

    done = run("restore.sh", backup, DATABASE_URL=original)

    assert done.returncode == 2
    assert "the database is not empty" in done.stderr
    assert tables(original) == before


def test_a_damaged_backup_leaves_nothing(backup: Path, empty: str, tmp_path: Path) -> None:
    whole = backup.read_bytes()
    damaged = tmp_path / "damaged.dump"
    damaged.write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "damaged.dump.counts").write_bytes(Path(f"{backup}.counts").read_bytes())

    done = run("restore.sh", damaged, DATABASE_URL=empty)

    assert done.returncode == 1
    assert "the restore failed, and left nothing behind" in done.stderr
    assert tables(empty) == {}


def test_a_restore_that_lacks_rows_is_found(backup: Path, empty: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.dump"
    copy.write_bytes(backup.read_bytes())
    counts = Path(f"{backup}.counts").read_text()
    (tmp_path / "copy.dump.counts").write_text(counts.replace("llm_decisions\t4", "llm_decisions\t5"))

    done = run("restore.sh", copy, DATABASE_URL=empty)

    assert done.returncode == 1
    assert "< llm_decisions\t4\n---\n> llm_decisions\t5" in done.stderr


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ('[ "$1" = replay ] && exit 1; echo "{}"', "answers of the copy differ"),
        ('[ "$1" = calibration ] && echo "{$DATABASE_URL}"', "the calibration of the copy differs"),
    ],
)
def test_a_rehearsal_finds_a_copy_that_is_otherwise(
    original: str, empty: str, tmp_path: Path, program: str, said: str
) -> None:
    spoiled = tmp_path / "tradeverdict"
    spoiled.write_text(f"#!/bin/sh\n{program}\n")
    spoiled.chmod(0o755)

    done = run("rehearse.sh", DATABASE_URL=original, SCRATCH_DATABASE_URL=empty, TRADEVERDICT=str(spoiled))

    assert (done.returncode, done.stderr) == (1, f"rehearse.sh: {said}\n")


def recording_programs(folder: Path, *, version: str | None = None) -> Path:
    """PostgreSQL's programs, of which each notes its arguments; pg_dump may say that it is of another version."""
    folder.mkdir()
    for name in ("psql", "pg_dump", "pg_restore"):
        lines = ["#!/bin/sh", f"printf '%s\\n' \"$0 $*\" >> '{folder}/arguments'"]
        if version is not None and name == "pg_dump":
            lines += [f'[ "$1" = --version ] && echo "pg_dump (PostgreSQL) {version}" && exit 0']
        lines += [f"exec '{_programs()}/{name}' \"$@\""]
        (folder / name).write_text("\n".join(lines) + "\n")
        (folder / name).chmod(0o755)
    return folder


def test_no_program_shows_the_password(original: str, tmp_path: Path) -> None:
    quoted = PASSWORD.replace("'", "''")
    execute(original, f"CREATE ROLE keeper SUPERUSER LOGIN PASSWORD '{quoted}'")
    parts = urlsplit(original)
    address = urlunsplit(parts._replace(netloc=f"keeper:{quote(PASSWORD, safe='')}@{parts.netloc.rpartition('@')[2]}"))
    programs = recording_programs(tmp_path / "bin")
    try:
        done = run("backup.sh", tmp_path / "b.dump", DATABASE_URL=address, PG_BIN=str(programs))
    finally:
        execute(original, "DROP ROLE keeper")

    shown = (programs / "arguments").read_text()
    assert (done.returncode, done.stderr) == (0, "")
    assert "pg_dump --format=custom" in shown
    assert "keeper@127.0.0.1" in shown
    assert quote(PASSWORD, safe="") not in shown
    assert PASSWORD not in shown


def test_programs_older_than_the_server_are_refused(original: str, empty: str, backup: Path, tmp_path: Path) -> None:
    programs = str(recording_programs(tmp_path / "bin", version="15.8"))

    for done in (
        run("backup.sh", tmp_path / "b.dump", DATABASE_URL=original, PG_BIN=programs),
        run("restore.sh", backup, DATABASE_URL=empty, PG_BIN=programs),
    ):
        assert done.returncode == 2
        assert "pg_dump is of PostgreSQL 15, the server of 18" in done.stderr
    assert not (tmp_path / "b.dump").exists()


@pytest.mark.parametrize(
    ("script", "environment", "exit_code", "said"),
    [
        ("backup.sh", {}, 2, "DATABASE_URL: must be set"),
        ("backup.sh", {"DATABASE_URL": "mysql://x"}, 2, "must start with postgresql://"),
        ("backup.sh", {"DATABASE_URL": "postgresql://nobody:x@127.0.0.1:9/nothing"}, 3, "cannot be reached"),
        ("backup.sh", {"DATABASE_URL": "postgresql://x", "PG_BIN": "/nowhere"}, 2, "PG_BIN=/nowhere: no psql there"),
        ("restore.sh", {"DATABASE_URL": "postgresql://x"}, 2, "no such backup"),
        ("rehearse.sh", {"DATABASE_URL": "postgresql://x"}, 2, "SCRATCH_DATABASE_URL: must be set"),
        (
            "rehearse.sh",
            {"DATABASE_URL": "postgresql://x", "SCRATCH_DATABASE_URL": "postgresql://x"},
            2,
            "is the database itself",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    script: str, environment: dict[str, str], exit_code: int, said: str, tmp_path: Path
) -> None:
    arguments = [] if script == "rehearse.sh" else [tmp_path / "none.dump"]

    done = run(script, *arguments, **environment)

    assert done.returncode == exit_code, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
