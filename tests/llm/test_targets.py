"""Targets come from a file or the environment; a wrong one stops the start with one line that names the field."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.llm import targets
from app.llm.clients import make_client, make_http_client
from app.llm.messages import MessagesClient, request_parameters
from app.llm.models import ModelPrice, ReplyForm, Thinking
from app.llm.targets import AuthHeader, Target, TargetKind, load_targets
from app.settings import Secret, Settings, SettingsError, load_settings
from tests.llm.routes import ask, routed
from tests.model_server import ModelServer

KEY = "sk-test-1234567890"
OTHER_KEY = "gw-test-0987654321"
ENVIRONMENT = {"FIRST_KEY": KEY, "GATEWAY_KEY": OTHER_KEY}
FILE = """
[[target]]
name = "first"
kind = "anthropic"
model = "claude-haiku-5-5"
key_variable = "FIRST_KEY"

[[target]]
name = "gateway"
kind = "gateway"
base_url = "https://models.example/api"
model = "qwen3-coder"
key_variable = "GATEWAY_KEY"
auth = "x-api-key"
version = "2023-06-01"
strict = false
stream = false
call_timeout_ms = 800
price = { input = 0.2, output = 0.8, cache_read = 0.02, cache_write = 0.2 }
"""
ONE = """
[[target]]
name = "only"
kind = "gateway"
base_url = "https://models.example"
model = "qwen3-coder"
"""


def settings_of(folder: Path, text: str, **environ: str) -> Settings:
    file = folder / "targets.toml"
    file.write_text(text)
    return load_settings({"MODEL_TARGETS_FILE": str(file)} | ENVIRONMENT | environ, dotenv=folder / "no.env")


def refusal(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_targets(settings_of(folder, text, **environ))
    message = str(caught.value)
    assert message.startswith(f"MODEL_TARGETS_FILE={folder / 'targets.toml'}: ")
    assert "\n" not in message
    return message.removeprefix(f"MODEL_TARGETS_FILE={folder / 'targets.toml'}: ")


def test_a_file_gives_the_targets_in_its_order(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, FILE, MODEL_STREAM="true")
    first, gateway = load_targets(settings)

    assert settings.uses_anthropic
    assert (first.name, first.key, first.stream, first.eager, first.warm) == ("first", Secret(KEY), True, False, True)
    assert (first.thinking, first.reply, first.auth) == (Thinking.DISABLED, ReplyForm.FORCED_TOOL, AuthHeader.BEARER)
    assert gateway == Target(
        name="gateway",
        kind=TargetKind.GATEWAY,
        base_url="https://models.example/api",
        model="qwen3-coder",
        key=Secret(OTHER_KEY),
        auth=AuthHeader.X_API_KEY,
        version="2023-06-01",
        strict=False,
        call_timeout_ms=800,
        price=ModelPrice(
            input=Decimal("0.2"), output=Decimal("0.8"), cache_read=Decimal("0.02"), cache_write=Decimal("0.2")
        ),
    )


def test_without_a_file_the_one_target_is_that_of_the_environment() -> None:
    environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "MODEL_STRICT_TOOLS": "false"}
    (target,) = load_targets(load_settings(environ, dotenv=Path("no.env")))

    assert (target.name, target.kind, target.model) == ("anthropic", TargetKind.ANTHROPIC, "claude-haiku-5-5")
    assert (target.base_url, target.key, target.strict) == ("http://127.0.0.1:9", Secret(KEY), False)
    assert (target.stream, target.eager, target.warm) == (False, False, False)


def test_a_stand_in_for_anthropic_is_not_called_unasked_nor_streamed_from() -> None:
    environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "MODEL_STREAM": "true"}
    (target,) = load_targets(load_settings(environ, dotenv=Path("no.env")))

    assert (target.stream, target.eager, target.warm) == (False, False, False)


def test_streaming_is_off_everywhere_when_the_setting_is(tmp_path: Path) -> None:
    text = ONE + "stream = true\n"

    assert load_targets(settings_of(tmp_path, text, MODEL_STREAM="true"))[0].stream
    assert not load_targets(settings_of(tmp_path, text, MODEL_STREAM="false"))[0].stream


def test_keys_may_stand_in_the_env_file_and_are_secrets_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text(FILE)
    (tmp_path / ".env").write_text(f"MODEL_TARGETS_FILE={tmp_path / 'targets.toml'}\nFIRST_KEY={KEY}\n")
    settings = load_settings({"GATEWAY_KEY": OTHER_KEY}, dotenv=tmp_path / ".env")

    assert [target.key for target in load_targets(settings)] == [Secret(KEY), Secret(OTHER_KEY)]
    assert {KEY, OTHER_KEY} <= set(settings.secrets)
    assert KEY not in repr(settings)


def test_a_key_variable_much_like_a_setting_is_no_misspelling_of_it(tmp_path: Path) -> None:
    text = FILE.replace("FIRST_KEY", "ANTHROPIC_API_KEY2")

    assert load_targets(settings_of(tmp_path, text, ANTHROPIC_API_KEY2="sk-another"))[0].key == Secret("sk-another")


WRONG: dict[str, tuple[str, str]] = {
    "no target": ("", "must hold 1 to 16 [[target]]"),
    "something else": ('[other]\nx = 1\n[[target]]\nname = "a"\n', "other: unknown; only [[target]] may stand here"),
    "too many": (ONE * 17, "must hold 1 to 16 [[target]]"),
    "the same name twice": (ONE * 2, "target only: name: used twice"),
    "an unknown field": (ONE + "retries = 3\n", "target only: retries: Extra inputs are not permitted"),
    "a key in the file": (ONE + 'key = "sk-ant-x"\n', "target only: key: Extra inputs are not permitted"),
    "a key in the address": (
        ONE.replace("https://", "https://me:pw@"),
        "target only: base_url: holds a user or password; name a variable in key_variable",
    ),
    "a variable that is not set": (
        ONE + 'key_variable = "NOT_SET"\n',
        "target only: key_variable: NOT_SET is not set",
    ),
    "a key no header can hold": (
        ONE + 'key_variable = "ODD_KEY"\n',
        "target only: key_variable: the API key must be printable ASCII",
    ),
    "an unknown kind": (
        ONE.replace('"gateway"', '"azure"'),
        "target only: kind: Input should be 'anthropic', 'bedrock', 'vertex' or 'gateway'",
    ),
    "no name": ('[[target]]\nkind = "gateway"\n', "target 1: name: Field required"),
    "no address": (ONE.replace("base_url", "#"), "target only: base_url: a gateway needs one"),
    "an address that is none": (
        ONE.replace("https://", "ftp://"),
        "target only: base_url: must start with http:// or https:// and name a host",
    ),
    "no key for anthropic": (
        ONE.replace('"gateway"', '"anthropic"'),
        "target only: key_variable: an anthropic target needs a key",
    ),
    "a forced tool that is refused": (
        ONE.replace("qwen3-coder", "claude-opus-5-5") + 'reply = "forced_tool"\n',
        "target only: reply: model claude-opus-5-5 refuses a forced tool call; use output_format",
    ),
    "thinking that cannot be disabled": (
        ONE.replace("qwen3-coder", "claude-sonnet-5-5") + 'thinking = "disabled"\n',
        "target only: thinking: model claude-sonnet-5-5 refuses disabled; leave it out",
    ),
    "a price below 0": (
        ONE + "price = { input = -1, output = 1, cache_read = 1, cache_write = 1 }\n",
        "target only: price.input: Input should be greater than or equal to 0",
    ),
    "half a price": (ONE + "price = { input = 1 }\n", "target only: price.output: Field required"),
    "a timeout of none": (
        ONE + "connect_timeout_ms = 0\n",
        "target only: connect_timeout_ms: Input should be greater than or equal to 1",
    ),
    "a region that is missing": (
        ONE.replace('"gateway"', '"bedrock"') + 'key_variable = "FIRST_KEY"\n',
        "target only: region: a bedrock target needs one",
    ),
    "a project that is missing": (
        ONE.replace('"gateway"', '"vertex"') + 'key_variable = "FIRST_KEY"\nregion = "eu"\n',
        "target only: region, project: a vertex target needs both",
    ),
    "event streams of bedrock": (
        ONE.replace('"gateway"', '"bedrock"') + 'key_variable = "FIRST_KEY"\nregion = "eu-west-1"\nstream = true\n',
        "target only: stream: a bedrock target's event streams are not read; use false",
    ),
}


@pytest.mark.parametrize(("text", "line"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_stops_the_start_and_is_named(tmp_path: Path, text: str, line: str) -> None:
    assert refusal(tmp_path, text, ODD_KEY="schlüssel", MODEL_STREAM="true") == line


@pytest.mark.parametrize("text", ["[[target", "\x00", "a = 1\na = 2"])
def test_a_file_that_is_no_toml_stops_the_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"^MODEL_TARGETS_FILE=.*: cannot be read: "):
        settings_of(tmp_path, text)


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^MODEL_TARGETS_FILE=.*: cannot be read: .*No such file"):
        load_settings({"MODEL_TARGETS_FILE": str(tmp_path / "none.toml")}, dotenv=tmp_path / "no.env")


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("bedrock", "target only: kind: bedrock without key_variable needs the packages of anthropic[bedrock]"),
        ("vertex", "target only: kind: vertex without key_variable needs the packages of anthropic[vertex]"),
    ],
)
def test_a_platform_whose_packages_are_missing_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, line: str
) -> None:
    monkeypatch.setattr(targets, "_installed", lambda _: False)

    assert refusal(tmp_path, ONE.replace('"gateway"', f'"{kind}"') + 'region = "eu"\nproject = "p"\n') == line


# --- what goes over the wire ---------------------------------------------------------------------------


def made(**fields: Any) -> Target:
    example: dict[str, Any] = {"name": "x", "kind": TargetKind.GATEWAY, "model": "qwen3-coder"}
    return Target(**(example | fields))


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"key": Secret(KEY)}, {"authorization": f"Bearer {KEY}"}),
        ({"key": Secret(KEY), "auth": AuthHeader.X_API_KEY}, {"x-api-key": KEY}),
        ({}, {}),
    ],
)
async def test_the_key_goes_in_its_header_and_nobody_elses_key_goes_at_all(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], sent: dict[str, str]
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-somebody-else")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token-of-somebody-else")
    async with ModelServer() as server:
        async with routed(made(base_url=server.base_url, **fields)) as decider:
            await ask(decider)
        headers = server.requests[0].headers

    assert {name: headers[name] for name in ("authorization", "x-api-key") if name in headers} == sent
    assert "somebody-else" not in str(headers)


async def test_the_address_of_another_target_in_the_environment_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://elsewhere.example")
    http_client = make_http_client(max_connections=1)
    client = make_client(made(kind=TargetKind.ANTHROPIC, key=Secret(KEY)), http_client=http_client)
    await client.close()

    assert str(client.base_url) == "https://api.anthropic.com"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (
            {"kind": TargetKind.BEDROCK, "region": "eu-west-1", "model": "anthropic.claude-haiku-5-5"},
            "/model/anthropic.claude-haiku-5-5/invoke",
        ),
        (
            {"kind": TargetKind.VERTEX, "region": "eu", "project": "p", "model": "claude-haiku-5-5"},
            "/projects/p/locations/eu/publishers/anthropic/models/claude-haiku-5-5:rawPredict",
        ),
    ],
)
async def test_platforms_are_asked_through_their_own_clients(fields: dict[str, Any], path: str) -> None:
    async with ModelServer() as server:
        target = made(base_url=server.base_url, key=Secret(KEY), version="bedrock-2023-05-31", **fields)
        async with routed(target) as decider:
            reply = await ask(decider)
        (request,) = server.requests

    assert reply.call.calls[0].outcome == "proposal"
    assert request.path == path
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body["anthropic_version"] == "bedrock-2023-05-31"
    assert "model" not in request.body


async def test_a_platform_without_credentials_is_unavailable_and_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "_installed", lambda _: True)  # as if, so that the start is not stopped
    async with ModelServer() as server:
        target = made(kind=TargetKind.VERTEX, region="eu", project="p", base_url=server.base_url)
        async with routed(target) as decider:
            reply = await ask(decider)

    assert reply.call.calls[0].outcome == "MODEL_UNAVAILABLE"
    assert server.requests == []


def test_a_thinking_model_gets_more_tokens_and_a_low_effort() -> None:
    target = targets.chosen(
        name="x",
        kind=TargetKind.ANTHROPIC,
        model="claude-sonnet-5-5",
        key=Secret(KEY),
        own=True,
        may_stream=True,
        given={},
    )
    parameters = request_parameters(target)

    assert parameters["max_tokens"] == targets.MAX_TOKENS_THINKING
    assert parameters["thinking"] == {"type": "between_tools"}
    assert parameters["output_config"]["effort"] == "low"
    assert (target.eager, target.stream) == (False, True)


async def test_a_target_is_told_to_send_tool_input_at_once_where_that_is_wanted() -> None:
    target = targets.chosen(
        name="x",
        kind=TargetKind.ANTHROPIC,
        model="claude-haiku-5-5",
        key=Secret(KEY),
        own=True,
        may_stream=True,
        given={"eager": True},
    )
    client = MessagesClient(target)
    await client.close()

    assert request_parameters(target)["tools"][0]["eager_input_streaming"] is True
