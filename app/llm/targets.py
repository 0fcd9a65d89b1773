"""List the targets: endpoints that speak the Messages API, in the order in which they are asked.

They come from a TOML file (MODEL_TARGETS_FILE), one `[[target]]` each; without a file there is one, from the
ANTHROPIC_ settings. A key never stands in the file: `key_variable` names the environment variable that holds it.

    [[target]]
    name = "anthropic"
    kind = "anthropic"
    model = "claude-haiku-5-5"
    key_variable = "ANTHROPIC_API_KEY"

    [[target]]
    name = "gateway"
    kind = "gateway"
    base_url = "https://models.example/api"
    model = "qwen3-coder"
    key_variable = "GATEWAY_KEY"
    auth = "x-api-key"
    strict = false
    price = { input = 0.2, output = 0.8, cache_read = 0.02, cache_write = 0.2 }
"""

import importlib.util
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.llm.models import ModelPrice, ModelTraits, ReplyForm, Thinking, model_traits
from app.settings import Secret, Settings, SettingsError

MAX_TARGETS: Final = 16
MAX_TOKENS: Final = 1024
"""Cap of one reply: three candidates with their theses take about 450 tokens."""
MAX_TOKENS_THINKING: Final = 4096
"""Cap of one reply of a model that thinks first."""
CONNECT_TIMEOUT_MS: Final = 500
ENVIRONMENT_TARGET: Final = "anthropic"


class TargetKind(StrEnum):
    """Say whose endpoint it is; a gateway is anybody's that serves /v1/messages."""

    ANTHROPIC = "anthropic"
    BEDROCK = "bedrock"
    VERTEX = "vertex"
    GATEWAY = "gateway"


class AuthHeader(StrEnum):
    """Say in which header the key goes."""

    BEARER = "bearer"
    X_API_KEY = "x-api-key"


class TargetError(ValueError):
    """Say in one line which field of a target is wrong, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Hold one endpoint and how it is asked.

    `key` is revealed only to the client. `stream`: the reply is read as it is written; `eager`: the endpoint is told
    not to hold tool input back until it is checked. `warm`: it may be called without being asked for a decision.
    `call_timeout_ms` is the most that one call may take of the decision's time. `version` replaces the SDK's
    anthropic-version.

    Raises:
        TargetError: a field is wrong, or what it needs is not there.
    """

    name: str
    kind: TargetKind
    model: str
    base_url: str | None = None
    key: Secret | None = None
    auth: AuthHeader = AuthHeader.BEARER
    region: str | None = None
    project: str | None = None
    version: str | None = None
    strict: bool = True
    reply: ReplyForm = ReplyForm.FORCED_TOOL
    thinking: Thinking = Thinking.DEFAULT
    max_tokens: int = MAX_TOKENS
    price: ModelPrice | None = None
    connect_timeout_ms: int = CONNECT_TIMEOUT_MS
    call_timeout_ms: int | None = None
    stream: bool = False
    eager: bool = False
    warm: bool = False

    def __post_init__(self) -> None:
        _check_address(self)
        _check_key(self)
        _check_model(self)
        _check_platform(self)

    @property
    def traits(self) -> ModelTraits:
        """Give what is known of the model."""
        return model_traits(self.model)


def _check_address(target: Target) -> None:
    if target.base_url is None:
        if target.kind is TargetKind.GATEWAY:
            raise TargetError("base_url: a gateway needs one")
        return
    parts = urlsplit(target.base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise TargetError("base_url: must start with http:// or https:// and name a host")


def _check_key(target: Target) -> None:
    if target.key is None:
        if target.kind is TargetKind.ANTHROPIC:
            raise TargetError("key_variable: an anthropic target needs a key")
        return
    key = target.key.reveal()
    if not key or not (key.isascii() and key.isprintable()):
        raise TargetError("key_variable: the API key must be printable ASCII")
    if target.auth is AuthHeader.X_API_KEY and target.kind in (TargetKind.BEDROCK, TargetKind.VERTEX):
        raise TargetError(f"auth: a {target.kind} target sends its key as bearer")


def _check_model(target: Target) -> None:
    if target.reply is ReplyForm.FORCED_TOOL and not target.traits.forced_tool:
        raise TargetError(f"reply: model {target.model} refuses a forced tool call; use output_format")
    if target.thinking is Thinking.DISABLED and not target.traits.may_disable_thinking:
        raise TargetError(f"thinking: model {target.model} refuses disabled; leave it out")
    if target.eager and not (target.stream and target.reply is ReplyForm.FORCED_TOOL):
        raise TargetError("eager: only a streamed forced tool has input to send at once")


def _check_platform(target: Target) -> None:
    if target.kind is TargetKind.BEDROCK:
        if target.region is None:
            raise TargetError("region: a bedrock target needs one")
        if target.stream:
            raise TargetError("stream: a bedrock target's event streams are not read; use false")
        if target.key is None and not (_installed("boto3") and _installed("botocore")):
            raise TargetError("kind: bedrock without key_variable needs the packages of anthropic[bedrock]")
    if target.kind is TargetKind.VERTEX:
        if target.region is None or target.project is None:
            raise TargetError("region, project: a vertex target needs both")
        if target.key is None and not _installed("google.auth"):
            raise TargetError("kind: vertex without key_variable needs the packages of anthropic[vertex]")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


# --- the file ------------------------------------------------------------------------------------------

_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]
_Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
_Usd = Annotated[Decimal, Field(ge=0, le=100_000)]
_Milliseconds = Annotated[int, Field(ge=1, le=600_000)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PriceEntry(_Entry):
    """A price in dollars per million tokens."""

    input: _Usd
    output: _Usd
    cache_read: _Usd
    cache_write: _Usd
    long_prompt: Annotated[int, Field(ge=1)] | None = None
    long_factor: Annotated[int, Field(ge=1, le=100)] = 1


class TargetEntry(_Entry):
    """One `[[target]]` of the file; what is left out is chosen by kind and model."""

    name: _Name
    kind: TargetKind
    model: _Text
    base_url: _Text | None = None
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    auth: AuthHeader = AuthHeader.BEARER
    region: _Text | None = None
    project: _Text | None = None
    version: _Text | None = None
    strict: bool = True
    reply: ReplyForm | None = None
    thinking: Thinking | None = None
    max_tokens: Annotated[int, Field(ge=64, le=32_000)] | None = None
    price: PriceEntry | None = None
    connect_timeout_ms: _Milliseconds = CONNECT_TIMEOUT_MS
    call_timeout_ms: _Milliseconds | None = None
    stream: bool | None = None
    eager: bool | None = None
    warm: bool | None = None

    def target(self, keys: Mapping[str, Secret], *, may_stream: bool) -> Target:
        """Make the target.

        Raises:
            TargetError: a field is wrong.
        """
        if self.key_variable is not None and self.key_variable not in keys:
            raise TargetError(f"key_variable: {self.key_variable} is not set")
        if self.base_url is not None and "@" in urlsplit(self.base_url).netloc:
            raise TargetError("base_url: holds a user or password; name a variable in key_variable")
        own = self.base_url is None and self.kind is not TargetKind.GATEWAY
        given = {name: getattr(self, name) for name in _OPTIONAL if getattr(self, name) is not None}
        if self.price is not None:
            given["price"] = ModelPrice(**self.price.model_dump())
        return chosen(
            name=self.name,
            kind=self.kind,
            model=self.model,
            base_url=self.base_url,
            key=None if self.key_variable is None else keys[self.key_variable],
            auth=self.auth,
            region=self.region,
            project=self.project,
            version=self.version,
            strict=self.strict,
            connect_timeout_ms=self.connect_timeout_ms,
            call_timeout_ms=self.call_timeout_ms,
            own=own,
            may_stream=may_stream,
            given=given,
        )


_OPTIONAL: Final = ("reply", "thinking", "max_tokens", "stream", "eager", "warm")


def chosen(*, own: bool, may_stream: bool, given: Mapping[str, Any], **fields: Any) -> Target:
    """Make a target, choosing by its model and kind what was not `given`.

    `own`: the endpoint is the platform's own, not somebody's that behaves like it.
    """
    traits, kind = model_traits(fields["model"]), fields["kind"]
    reply = ReplyForm.FORCED_TOOL if traits.forced_tool else ReplyForm.OUTPUT_FORMAT
    thinks = traits.always_thinks or given.get("thinking", traits.thinking) is not traits.thinking
    choices: dict[str, Any] = {
        "reply": reply,
        "thinking": traits.thinking,
        "max_tokens": MAX_TOKENS_THINKING if thinks else MAX_TOKENS,
        "price": traits.price,
        "stream": own and kind is not TargetKind.BEDROCK,
        "eager": False,
        "warm": own,
    } | dict(given)
    choices["stream"] = choices["stream"] and may_stream
    choices["eager"] = choices["eager"] and choices["stream"]
    return Target(**fields, **choices)


def load_targets(settings: Settings) -> tuple[Target, ...]:
    """Give the targets in the order in which they are asked; at least one.

    Raises:
        SettingsError: the file cannot be read, or a field of a target is wrong.
    """
    if settings.model_targets_file is None:
        return (_from_environment(settings),)
    path = settings.model_targets_file
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"MODEL_TARGETS_FILE={path}: cannot be read: {error}") from error
    entries = document.pop("target", None)
    if document:
        raise SettingsError(
            f"MODEL_TARGETS_FILE={path}: {next(iter(document))}: unknown; only [[target]] may stand here"
        )
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_TARGETS:
        raise SettingsError(f"MODEL_TARGETS_FILE={path}: must hold 1 to {MAX_TARGETS} [[target]]")
    targets = tuple(_read_entry(entry, number, settings=settings) for number, entry in enumerate(entries, start=1))
    names = [target.name for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"MODEL_TARGETS_FILE={path}: target {name}: name: used twice")
    return targets


def _from_environment(settings: Settings) -> Target:
    try:
        return chosen(
            name=ENVIRONMENT_TARGET,
            kind=TargetKind.ANTHROPIC,
            model=settings.anthropic_model,
            base_url=settings.anthropic_base_url,
            key=settings.anthropic_api_key,
            strict=settings.model_strict_tools,
            own=settings.anthropic_base_url is None,
            may_stream=settings.model_stream,
            given={},
        )
    except TargetError as error:
        raise SettingsError(f"ANTHROPIC_API_KEY, ANTHROPIC_MODEL: {error}") from error


def _read_entry(entry: object, number: int, *, settings: Settings) -> Target:
    named = entry.get("name") if isinstance(entry, dict) else None
    place = f"MODEL_TARGETS_FILE={settings.model_targets_file}: target {named if isinstance(named, str) else number}"
    try:
        return TargetEntry.model_validate(entry).target(settings.model_keys, may_stream=settings.model_stream)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise SettingsError(f"{place}: {field}: {fault['msg']}") from None
    except TargetError as error:
        raise SettingsError(f"{place}: {error}") from error
