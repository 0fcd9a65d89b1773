"""The `tradeverdict` command does what it says, and ends with one line and an exit code when it cannot."""

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from app.cli import main
from app.cli.errors import ExitCode
from app.cli.reference import env_example, settings_markdown
from app.sample import trade_scene
from tests.builders import a_request
from tests.log_state import restored_logging
from tests.model_server import ModelServer

COMMAND = (sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main())")
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty folder and no settings but those a test sets."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "AUTH", "DECIDER", "TRADEVERDICT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOG_LEVEL", "error")
    with restored_logging():
        yield


@pytest.fixture
def on_database(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    """Commands use a migrated database of the test's own."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MAX_SNAPSHOT_AGE_S", "0")


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the line on standard error."""
    capsys.readouterr()
    exit_code = main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tradeverdict: ")
    return exit_code, err.removeprefix("tradeverdict: ").rstrip("\n")


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Standard output of a command that succeeds."""
    capsys.readouterr()
    exit_code = main(arguments)
    out, err = capsys.readouterr()
    assert (exit_code, err) == (ExitCode.DONE, "")
    return out


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """The rulebook's example in a file."""
    path = tmp_path / "snapshot.json"
    path.write_text(json.dumps(a_request()))
    return path


# ------------------------------------------------------------------------------------------ settings


def test_settings_in_force_are_shown_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:canary@db/x")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary")
    monkeypatch.setenv("MIN_ADV", "5000000")

    shown = json.loads(output(capsys, "settings", "--format", "json"))

    assert shown["DATABASE_URL"] == "postgresql://db/x"
    assert (shown["ANTHROPIC_API_KEY"], shown["MIN_ADV"], shown["LIVE_ALLOWED"]) == ("***", "5000000", "false")
    assert "canary" not in output(capsys, "settings")


def test_the_reference_of_settings_can_be_written_anew(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "settings", "--format", "env") == env_example()
    assert output(capsys, "settings", "--format", "markdown") == settings_markdown()


@pytest.mark.parametrize("command", [("settings",), ("serve",), ("demo",), ("migrate",), ("keys", "list")])
def test_a_wrong_setting_ends_any_command_with_a_line_that_names_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("LIVE_ALLOWED", "yes")

    assert failure(capsys, *command) == (ExitCode.BAD_INPUT, "LIVE_ALLOWED=yes: must be true or false")


def test_usage_errors_exit_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fly"])

    assert caught.value.code == ExitCode.BAD_INPUT


# ------------------------------------------------------------------------------------------ decide


@pytest.mark.usefixtures("on_database")
def test_a_snapshot_file_is_decided_on_here(capsys: pytest.CaptureFixture[str], snapshot: Path) -> None:
    answer = json.loads(output(capsys, "decide", str(snapshot), "--json"))
    shown = output(capsys, "decide", str(snapshot))

    assert answer["decider"]["name"] == "rules"
    assert answer["verdict"] in {"approved", "resized", "blocked", "no_trade"}
    assert "Verdict: " in shown


@pytest.mark.usefixtures("on_database")
def test_a_snapshot_can_come_on_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(a_request()).encode())))

    assert json.loads(output(capsys, "decide", "-", "--json"))["account_id"] == "paper-1"


@pytest.mark.usefixtures("on_database")
def test_a_wrong_snapshot_is_refused_naming_its_fields(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(a_request(account={"equity": 0}, symbol={"price": "1"}, aggressiveness_level=3)))

    exit_code, said = failure(capsys, "decide", str(wrong))

    assert exit_code == ExitCode.BAD_INPUT
    assert [line.split(":")[0].strip() for line in said.splitlines()] == [
        "VALIDATION_ERROR",
        "account.equity",
        "market.0.price",
    ]


@pytest.mark.usefixtures("on_database")
def test_a_level_that_is_not_allowed_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(a_request(aggressiveness_level=3)))

    exit_code, said = failure(capsys, "decide", str(wrong))

    assert (exit_code, "aggressiveness_level" in said) == (ExitCode.BAD_INPUT, True)


def test_a_file_that_is_not_there_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(capsys, "decide", "no.json") == (ExitCode.BAD_INPUT, "no.json: No such file or directory")


@pytest.mark.parametrize("command", [("decide",), ("migrate",), ("keys", "list")])
def test_a_database_that_is_away_is_unavailable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, snapshot: Path, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:canary@127.0.0.1:9/x")
    file = (str(snapshot),) if command == ("decide",) else ()

    exit_code, said = failure(capsys, *command, *file)

    assert (exit_code, "canary" in said) == (ExitCode.UNAVAILABLE, False)


def test_a_database_that_is_not_postgres_is_a_wrong_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, snapshot: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://me:canary@db/x")

    for command in (("migrate",), ("decide", str(snapshot)), ("keys", "list")):
        exit_code, said = failure(capsys, *command)
        assert (exit_code, said.startswith("DATABASE_URL: "), "canary" in said) == (ExitCode.BAD_INPUT, True, False)


def test_a_service_that_is_away_is_unavailable(capsys: pytest.CaptureFixture[str], snapshot: Path) -> None:
    exit_code, said = failure(capsys, "decide", str(snapshot), "--url", "http://127.0.0.1:9")

    assert (exit_code, said.startswith("http://127.0.0.1:9 cannot be reached")) == (ExitCode.UNAVAILABLE, True)


# ------------------------------------------------------------------------------------------ keys, halts, live


@pytest.mark.usefixtures("on_database")
def test_keys_are_made_shown_once_listed_and_revoked(capsys: pytest.CaptureFixture[str]) -> None:
    token = output(
        capsys, "keys", "create", "--name", "bot", "--scope", "decide", "--scope", "read", "--account", "a",
        "--expires", "30d",
    ).strip()  # fmt: skip
    prefix, public_id, secret = token.split("_")
    listed = output(capsys, "keys", "list")

    assert prefix == "tv"
    assert len(bytes.fromhex(secret)) * 8 >= 128
    assert public_id in listed
    assert "decide read" in listed
    assert secret not in listed
    assert "revoked" in output(capsys, "keys", "revoke", public_id)
    assert failure(capsys, "keys", "revoke", public_id)[0] == ExitCode.BAD_INPUT


@pytest.mark.parametrize(("state", "code"), [("halted", "HALTED"), ("reduce_only", "REDUCE_ONLY")])
@pytest.mark.parametrize("whose", [("--account", "demo"), ("--global",)])
@pytest.mark.usefixtures("on_database")
def test_a_halt_blocks_entries_until_it_is_lifted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, state: str, code: str, whose: tuple[str, ...]
) -> None:
    scene = trade_file(tmp_path)
    by = ("--reason", "test", "--operator", "ana")

    output(capsys, "halt", *whose, "--state", state, *by)
    assert "ana" in output(capsys, "halts")
    halted = json.loads(output(capsys, "decide", str(scene), "--json"))
    output(capsys, "resume", *whose, *by)
    resumed = json.loads(output(capsys, "decide", str(scene), "--json"))

    assert (halted["verdict"], halted["reason_code"]) == ("blocked", code)
    assert resumed["should_execute"] is True
    assert failure(capsys, "resume", *whose, *by)[0] == ExitCode.BAD_INPUT


def trade_file(folder: Path) -> Path:
    """A file with a request that the rules have a trade for."""
    path = folder / "scene.json"
    path.write_text(json.dumps(trade_scene(account_id="demo")))
    return path


@pytest.mark.usefixtures("on_database")
def test_live_entries_need_a_person_to_type_the_accounts_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm = ("live", "confirm", "--account", "real-1", "--for", "8h", "--operator", "ana")
    revoke = ("live", "revoke", "--account", "real-1", "--operator", "ana")

    for typed in ("", "real-2\n", "REAL-1\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert main(confirm) == ExitCode.BAD_INPUT
    assert failure(capsys, *revoke)[0] == ExitCode.BAD_INPUT

    monkeypatch.setattr(sys, "stdin", io.StringIO("real-1\n"))
    assert "may trade live until" in output(capsys, *confirm)
    assert "no longer" in output(capsys, *revoke)
    assert re.search(r"real-1 +│ ana +│.+│ ana ", output(capsys, "live", "list"))


@pytest.mark.parametrize(
    "command",
    [
        ("halt", "--global", "--reason", "test", "--operator", ""),
        ("halt", "--account", " ", "--reason", "test", "--operator", "ana"),
        ("resume", "--global", "--reason", "", "--operator", "ana"),
        ("resume", "--global", "--operator", "ana"),
        ("halt", "--reason", "test", "--operator", "ana"),
        ("live", "confirm", "--account", "a", "--for", "8h", "--operator", "a\nb"),
        ("live", "confirm", "--account", "a", "--for", "8h"),
        ("keys", "create", "--account", "a", "--scope", "root"),
        ("keys", "create", "--scope", "admin"),
    ],
    ids=" ".join,
)
def test_what_nobody_answers_for_is_not_done(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command)

    assert ended.value.code == ExitCode.BAD_INPUT
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["8", "h", "0h", "8w", "-1h", "99999d", "8 h"])
def test_a_duration_is_a_number_and_a_unit(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit):
        main(["live", "confirm", "--account", "a", "--operator", "ana", f"--for={text}"])

    assert "is not a duration" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ migrate, demo, serve


@pytest.mark.usefixtures("on_database")
def test_migrating_says_where_and_how_far(capsys: pytest.CaptureFixture[str]) -> None:
    assert "is at revision" in output(capsys, "migrate")


def settled(**variables: str) -> dict[str, str]:
    """The environment of a process of its own."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"} | variables


def test_the_demo_runs_on_nothing_but_an_empty_folder(tmp_path: Path) -> None:
    for arguments in ((), ("--json",)):
        done = subprocess.run(
            [*COMMAND, "demo", *arguments], env=settled(), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        if arguments:
            decisions = [decision["answer"] for decision in json.loads(done.stdout)["decisions"]]
            assert [decision["reason_code"] for decision in decisions] == [None, "DAILY_LOSS_LIMIT"]
            assert decisions[0]["order"]["quantity"] > 0
            assert len(decisions[0]["liquidity"]) >= 5
        else:
            for part in ("decider rules", "Ticket: buy", "risk_budget", "binds", "DAILY_LOSS_LIMIT", "Stored decision"):
                assert part in done.stdout


@pytest.mark.usefixtures("on_database")
async def test_with_a_key_the_demo_goes_through_the_sdk_over_a_real_socket(tmp_path: Path, database_url: str) -> None:
    async with ModelServer() as server:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            "demo",
            "--json",
            env=settled(
                DATABASE_URL=database_url, ANTHROPIC_API_KEY="sk-ant-canary", ANTHROPIC_BASE_URL=server.base_url
            ),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        address = server.base_url

    assert (process.returncode, err) == (0, b"")
    document = json.loads(out)
    assert document["decider"] == f"decider anthropic (claude-haiku-5-5) over {address}"
    assert [decision["answer"]["decider"]["name"] for decision in document["decisions"]] == ["anthropic"] * 2
    assert b"canary" not in out


@contextmanager
def serving(folder: Path, *arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `tradeverdict serve` on a free port; give the process and the line in which it says where it listens."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *arguments],
        env=settled(**variables),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.communicate()


def test_serving_needs_nothing_and_ends_cleanly_on_sigterm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: Path
) -> None:
    with serving(tmp_path, AUTH="off", MAX_SNAPSHOT_AGE_S="0") as (process, said):
        address = re.fullmatch(r"tradeverdict serves (http://127\.0\.0\.1:\d+); decider rules; auth off\n", said)
        assert address is not None, said
        url = address[1]
        assert httpx2.get(f"{url}/readyz").json()["decider"] == "rules"
        answer = json.loads(output(capsys, "decide", str(snapshot), "--url", url, "--json"))
        assert httpx2.get(f"{url}/decisions/{answer['decision_id']}").json()["response"] == answer

        snapshot.write_text("{}")
        exit_code, refused = failure(capsys, "decide", str(snapshot), "--url", url)
        assert (exit_code, refused.startswith("HTTP 422: VALIDATION_ERROR: ")) == (ExitCode.BAD_INPUT, True)

        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0

    assert not (tmp_path / ".data" / "postgres" / "cluster" / "postmaster.pid").exists()


@pytest.mark.usefixtures("on_database")
def test_a_guarded_service_takes_the_key_that_the_settings_hold(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
    snapshot: Path,
) -> None:
    token = output(capsys, "keys", "create", "--name", "bot", "--scope", "decide", "--all-accounts").strip()
    with serving(tmp_path, DATABASE_URL=database_url, MAX_SNAPSHOT_AGE_S="0") as (_, said):
        url = said.split()[2].rstrip(";")
        assert said.endswith("auth on\n")
        exit_code, refused = failure(capsys, "decide", str(snapshot), "--url", url)
        assert (exit_code, refused.startswith("HTTP 401: UNAUTHENTICATED: ")) == (ExitCode.REFUSED, True)

        monkeypatch.setenv("TRADEVERDICT_API_KEY", token)
        assert json.loads(output(capsys, "decide", str(snapshot), "--url", url, "--json"))["account_id"] == "paper-1"


def test_serving_without_keys_beyond_loopback_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTH", "off")

    exit_code, said = failure(capsys, "serve", "--host", "0.0.0.0")

    assert (exit_code, said.startswith("AUTH=off: refused on 0.0.0.0")) == (ExitCode.BAD_INPUT, True)


def test_an_address_that_is_taken_is_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        exit_code, said = failure(capsys, "serve", "--port", port)

    assert (exit_code, said.startswith(f"cannot listen on 127.0.0.1:{port}: ")) == (ExitCode.UNAVAILABLE, True)
