"""Read the settings once, from the environment and `.env`; refuse a wrong or unknown one with one clear line.

Every field of `Settings` and of the domain's `Policy` is a setting; its environment name is the field's name in
upper case. Type, default, bounds, unit and meaning stand on the field, and nowhere else: parsing, `.env.example`
and docs/settings.md are read off it.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import timedelta
from decimal import Decimal
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, Final, get_args, get_type_hints
from urllib.parse import unquote, urlsplit, urlunsplit

from app.domain.policy import Policy, PolicyError

DOTENV: Final = Path(".env")
NEAR_MISS: Final = 0.85
SHORTEST_SECRET: Final = 8
"""Shorter ones are not masked: they are part of too many words, and masking them would hide nothing."""
COMPOSE_NAMES: Final = frozenset({"POSTGRES_PASSWORD", "TRADEVERDICT_API_PASSWORD"})
"""What docker-compose.yml reads from the same `.env`; nothing here does."""
"""An unknown environment name this similar to a setting that is not set is taken for a misspelling of it."""
OTEL_NAMES: Final = frozenset(
    f"OTEL_EXPORTER_OTLP_{signal}{name}"
    for signal in ("", "TRACES_", "METRICS_", "LOGS_")
    for name in (
        *("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY", "COMPRESSION", "ENDPOINT", "HEADERS"),
        *("INSECURE", "PROTOCOL", "TIMEOUT"),
    )
)
"""Names of the OTLP standard; those that are no settings here are no misspelt ones either."""
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ -~]*")
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class SettingsError(Exception):
    """Say in one line which setting stops the start, and why."""


class Secret:
    """Hold a value that must never be printed, logged or stored."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Give the value, to the one who needs it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class DeciderChoice(StrEnum):
    """Say who proposes; auto is anthropic when there is an API key, else rules."""

    AUTO = "auto"
    ANTHROPIC = "anthropic"
    RULES = "rules"


class Auth(StrEnum):
    """Say whether callers need a key."""

    ON = "on"
    OFF = "off"


class Recalibration(StrEnum):
    """Say how far calibrators may go by themselves: auto to being used, shadow to being recorded, off nowhere."""

    AUTO = "auto"
    SHADOW = "shadow"
    OFF = "off"


class Derating(StrEnum):
    """Say whether entries of a decider whose calibration is rejected get the lowest size multiplier."""

    ON = "on"
    OFF = "off"


class LastResort(StrEnum):
    """Say who proposes for paper accounts when no target answered."""

    NONE = "none"
    RULES = "rules"


class LogLevel(StrEnum):
    """Say from which level on log lines are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class OtlpProtocol(StrEnum):
    """Say how spans are sent; only one way is built in."""

    HTTP_PROTOBUF = "http/protobuf"


class LogFormat(StrEnum):
    """Say how log lines look: for machines or for people."""

    JSON = "json"
    CONSOLE = "console"


def _about(unit: str, meaning: str, *, low: object = None, high: object = None) -> dict[str, object]:
    return {"low": low, "high": high, "unit": unit, "meaning": meaning}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold how the service runs, validated.

    `limits` are the policy values that differ from their defaults, `given` the environment names that were set,
    `model_keys` the values of the variables that MODEL_TARGETS_FILE names.

    Raises:
        SettingsError: a value is out of bounds, or two values contradict each other.
    """

    database_url: Secret | None = field(
        default=None, metadata=_about("url", "PostgreSQL server; unset: an embedded one under DATA_DIR")
    )
    database_pool_size: int = field(
        default=10,
        metadata=_about(
            "connections",
            "most database connections of one process; the watch of calibration has one more",
            low=1,
            high=200,
        ),
    )
    data_dir: Path = field(
        default=Path(".data"), metadata=_about("folder", "where the embedded database keeps its files")
    )
    decider: DeciderChoice = field(
        default=DeciderChoice.AUTO,
        metadata=_about(
            "choice", "who proposes; auto: anthropic when ANTHROPIC_API_KEY or MODEL_TARGETS_FILE is set, else rules"
        ),
    )
    anthropic_api_key: Secret | None = field(default=None, metadata=_about("secret", "key for the Messages API"))
    anthropic_base_url: str | None = field(
        default=None, metadata=_about("url", "address of the Messages API; unset: the SDK's own")
    )
    anthropic_model: str = field(default="claude-haiku-5-5", metadata=_about("name", "model that proposes"))
    model_strict_tools: bool = field(
        default=True, metadata=_about("switch", "whether the tool is sent as strict (some gateways refuse it)")
    )
    model_targets_file: Path | None = field(
        default=None,
        metadata=_about("file", "TOML list of targets, asked in turn; unset: one target, of the ANTHROPIC_ settings"),
    )
    model_stream: bool = field(
        default=True,
        metadata=_about("switch", "whether replies are streamed, and judged when their last number has arrived"),
    )
    model_hedge_max_share: Decimal = field(
        default=Decimal("0.05"),
        metadata=_about(
            "fraction",
            "most decisions in which a second call goes out because the first is late; 0: none",
            low=Decimal(0),
            high=Decimal(1),
        ),
    )
    model_breaker_failures: int = field(
        default=5,
        metadata=_about("failures", "that many in a row, and a target is left alone for a while", low=1, high=1000),
    )
    model_breaker_cool_down_s: Decimal = field(
        default=Decimal(2),
        metadata=_about(
            "s", "for so long, give or take a fifth, then one call probes it", low=Decimal("0.05"), high=Decimal(3600)
        ),
    )
    model_warm_every_s: int = field(
        default=240,
        metadata=_about(
            "s", "an idle target's connection and caches are kept warm this often; 0: never", low=0, high=86_400
        ),
    )
    model_last_resort: LastResort = field(
        default=LastResort.NONE,
        metadata=_about("choice", "who proposes for paper accounts, marked degraded, when no target answered"),
    )
    max_concurrent_model_calls: int = field(
        default=32, metadata=_about("calls", "most model calls at once in one process", low=1, high=1000)
    )
    model_budget_usd_per_day: Decimal = field(
        default=Decimal(0),
        metadata=_about(
            "usd", "model cost of one key in a UTC day; 0: no budget", low=Decimal(0), high=Decimal(1_000_000)
        ),
    )
    auth: Auth = field(
        default=Auth.ON, metadata=_about("choice", "whether callers need a key; off only on a loopback host")
    )
    max_body_bytes: int = field(
        default=1_048_576, metadata=_about("bytes", "largest request body", low=1024, high=67_108_864)
    )
    rate_limit_per_minute: int = field(
        default=600,
        metadata=_about(
            "requests",
            "most requests of one key a minute; with AUTH=off of all callers together, and only when it is set",
            low=1,
            high=1_000_000,
        ),
    )
    web_session_hours: int = field(
        default=12, metadata=_about("hours", "how long signing in to the pages lasts", low=1, high=720)
    )
    idempotency_lease_s: int = field(
        default=10,
        metadata=_about(
            "s",
            "after this long an unfinished idempotent request may be taken over; longer than DECISION_DEADLINE_MS",
            low=1,
            high=3600,
        ),
    )
    calibration_min_decisions: int = field(
        default=20,
        metadata=_about("decisions", "fewer resolved decisions give no calibration verdict", low=1, high=1_000_000),
    )
    calibration_derating: Derating = field(
        default=Derating.ON,
        metadata=_about("choice", "whether a decider whose calibration is rejected gets the lowest size multiplier"),
    )
    recalibration: Recalibration = field(
        default=Recalibration.AUTO,
        metadata=_about("choice", "how far calibrators of p_win may go: auto: in use; shadow: only recorded; off"),
    )
    buckets_file: Path | None = field(
        default=None, metadata=_about("file", "CSV symbol,buckets that overrides the shipped bucket map")
    )
    log_level: LogLevel = field(default=LogLevel.INFO, metadata=_about("choice", "least severe log lines written"))
    log_format: LogFormat = field(
        default=LogFormat.JSON, metadata=_about("choice", "one JSON object a line, or lines for people")
    )
    otel_exporter_otlp_endpoint: str | None = field(
        default=None, metadata=_about("url", "OTLP collector that spans go to, at its /v1/traces; unset: no spans")
    )
    otel_exporter_otlp_traces_endpoint: str | None = field(
        default=None, metadata=_about("url", "the same, but the whole address; it wins")
    )
    otel_exporter_otlp_headers: Secret | None = field(
        default=None, metadata=_about("secret", "headers for the collector: name=value,name=value, percent-encoded")
    )
    otel_exporter_otlp_protocol: OtlpProtocol = field(
        default=OtlpProtocol.HTTP_PROTOBUF, metadata=_about("choice", "how spans are sent")
    )
    otel_service_name: str = field(default="tradeverdict", metadata=_about("name", "service.name of the spans"))
    otel_sdk_disabled: bool = field(
        default=False, metadata=_about("switch", "whether there are no spans, whatever the endpoint")
    )
    tradeverdict_api_key: Secret | None = field(
        default=None, metadata=_about("secret", "key that `tradeverdict decide --url` sends to the service")
    )
    limits: Mapping[str, Any] = field(default_factory=dict)
    model_keys: Mapping[str, Secret] = field(default_factory=dict)
    given: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        for spec in fields(self):
            low, high = spec.metadata.get("low"), spec.metadata.get("high")
            value = getattr(self, spec.name)
            if low is not None and not low <= value <= high:
                raise SettingsError(f"{spec.name.upper()}={value}: must lie between {low} and {high}")
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))
        deadline_ms = self.policy().decision_deadline_ms
        lease_s = self.idempotency_lease_s
        if "IDEMPOTENCY_LEASE_S" in self.given and lease_s * 1000 <= deadline_ms:
            raise SettingsError(
                f"IDEMPOTENCY_LEASE_S={lease_s}: must be longer than DECISION_DEADLINE_MS={deadline_ms}"
            )
        if self.anthropic_base_url is not None and urlsplit(self.anthropic_base_url).scheme not in {"http", "https"}:
            raise SettingsError("ANTHROPIC_BASE_URL: must start with http:// or https://")
        if self.anthropic_base_url is not None and "@" in urlsplit(self.anthropic_base_url).netloc:
            raise SettingsError("ANTHROPIC_BASE_URL: holds a user or password; the key is ANTHROPIC_API_KEY")
        for name in ("otel_exporter_otlp_endpoint", "otel_exporter_otlp_traces_endpoint"):
            url = getattr(self, name)
            if url is not None and not _is_web_address(url):
                raise SettingsError(f"{name.upper()}: must start with http:// or https:// and name a host")
        if not all(_HEADER.fullmatch(f"{name}:{value}") for name, value in self.span_headers.items()):
            raise SettingsError("OTEL_EXPORTER_OTLP_HEADERS: must be name=value,name=value, percent-encoded")
        if self.decider is DeciderChoice.ANTHROPIC and not self._has_model:
            raise SettingsError("DECIDER=anthropic: needs ANTHROPIC_API_KEY or MODEL_TARGETS_FILE")

    def policy(self) -> Policy:
        """Make the domain's limits.

        Raises:
            SettingsError: a limit is out of bounds or contradicts another.
        """
        try:
            return Policy(**self.limits)
        except PolicyError as error:
            raise SettingsError(str(error)) from error

    @property
    def idempotency_lease(self) -> timedelta:
        """Give the lease of an idempotency key; where none was set, at least as long as a slow deadline needs."""
        deadline_s = self.policy().decision_deadline_ms // 1000
        return timedelta(seconds=max(self.idempotency_lease_s, deadline_s + 1))

    @property
    def limits_requests_without_key(self) -> bool:
        """Tell whether the rate limit holds without authentication: someone who tries the service set none."""
        return "RATE_LIMIT_PER_MINUTE" in self.given

    @property
    def uses_anthropic(self) -> bool:
        """Tell whether a model proposes, rather than the rules."""
        if self.decider is DeciderChoice.AUTO:
            return self._has_model
        return self.decider is DeciderChoice.ANTHROPIC

    @property
    def spans_endpoint(self) -> str | None:
        """Give the address that spans are sent to; None where there are none."""
        if self.otel_sdk_disabled:
            return None
        if self.otel_exporter_otlp_traces_endpoint is not None or self.otel_exporter_otlp_endpoint is None:
            return self.otel_exporter_otlp_traces_endpoint
        return self.otel_exporter_otlp_endpoint.removesuffix("/") + "/v1/traces"

    @property
    def span_headers(self) -> dict[str, str]:
        """Give the headers that spans are sent with; a part that is none has an empty name."""
        if self.otel_exporter_otlp_headers is None:
            return {}
        pairs = (part.partition("=") for part in self.otel_exporter_otlp_headers.reveal().split(",") if part.strip())
        return {name.strip() if equals else "": unquote(value.strip()) for name, equals, value in pairs}

    @property
    def _has_model(self) -> bool:
        return self.anthropic_api_key is not None or self.model_targets_file is not None

    @property
    def secrets(self) -> tuple[str, ...]:
        """List every value that must not appear in any output."""
        held = (self.database_url, self.anthropic_api_key, self.tradeverdict_api_key, *self.model_keys.values())
        values = [secret.reveal() for secret in held if secret is not None]
        urls = (self.anthropic_base_url, self.otel_exporter_otlp_endpoint, self.otel_exporter_otlp_traces_endpoint)
        passwords = [urlsplit(url).password for url in (*values, *(url for url in urls if url is not None))]
        if self.otel_exporter_otlp_headers is not None:
            values += (self.otel_exporter_otlp_headers.reveal(), *self.span_headers.values())
        return tuple(secret for secret in (*values, *passwords) if secret)

    def require_safe_host(self, host: str) -> None:
        """Refuse to serve without authentication where others can reach it.

        Raises:
            SettingsError: AUTH=off on a host that is not loopback.
        """
        if self.auth is Auth.OFF and host not in LOOPBACK_HOSTS:
            raise SettingsError(f"AUTH=off: refused on {host}; without keys only a loopback host is served")


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """Describe one setting: how it is named, parsed, bounded and explained."""

    name: str
    of_policy: bool
    optional: bool
    type: type
    default: object
    low: object
    high: object
    unit: str
    meaning: str

    @property
    def env(self) -> str:
        """Give the environment name."""
        return self.name.upper()

    @property
    def choices(self) -> tuple[str, ...]:
        """List the words allowed; empty where any value of the type is."""
        if self.type is bool:
            return ("true", "false")
        return tuple(self.type) if issubclass(self.type, StrEnum) else ()

    @property
    def default_text(self) -> str:
        """Write the default as the environment would; empty when there is none."""
        return "" if self.default is None else setting_text(self.default)


def _spec(field_: "Field[Any]", annotation: object, *, of_policy: bool) -> SettingSpec:
    alternatives = get_args(annotation) or (annotation,)
    return SettingSpec(
        name=field_.name,
        of_policy=of_policy,
        optional=NoneType in alternatives,
        type=next(alternative for alternative in alternatives if alternative is not NoneType),
        default=field_.default,
        **field_.metadata,
    )


def _specs(owner: type, *, of_policy: bool) -> dict[str, SettingSpec]:
    hints = get_type_hints(owner)
    return {
        spec.name.upper(): _spec(spec, hints[spec.name], of_policy=of_policy)
        for spec in fields(owner)
        if spec.default is not MISSING
    }


SETTINGS: Final[Mapping[str, SettingSpec]] = MappingProxyType(
    _specs(Settings, of_policy=False) | _specs(Policy, of_policy=True)
)
"""Every setting by its environment name, in the order of documentation."""


def load_settings(environ: Mapping[str, str] | None = None, *, dotenv: Path = DOTENV) -> Settings:
    """Read settings from the environment (default: the process's) and a `.env` file; the environment wins.

    Raises:
        SettingsError: a value is wrong, a name in `.env` is unknown, or a name in the environment is plainly a
            misspelt setting.
    """
    environ = os.environ if environ is None else environ
    written = {name: text for name, text in _read_dotenv(dotenv).items() if name not in COMPOSE_NAMES}
    keys = _model_keys({**written, **environ})
    texts = {name: text for name, text in written.items() if name in SETTINGS or name not in keys}
    named = {name: text for name, text in environ.items() if name in SETTINGS or name not in keys}
    _refuse_unknown(named, texts, dotenv=dotenv)
    texts |= {name: environ[name] for name in SETTINGS if name in environ}
    # An optional setting that is there but empty, as container files like to pass it, is not set.
    texts = {name: text.strip() for name, text in texts.items() if text.strip() or not SETTINGS[name].optional}
    service: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for name, text in texts.items():
        spec = SETTINGS[name]
        (limits if spec.of_policy else service)[spec.name] = _parse(spec, text)
    return Settings(**service, limits=limits, model_keys=keys, given=frozenset(texts))


def read_limit(name: str, text: str) -> tuple[str, object]:
    """Read one limit as the environment would give it: the field of `Policy` of that name, and its value.

    Raises:
        SettingsError: no limit has the name, or the text is no value of it.
    """
    spec = SETTINGS.get(name)
    if spec is None or not spec.of_policy:
        limits = [known for known, spec in SETTINGS.items() if spec.of_policy]
        raise SettingsError(f"{name}: no limit has this name{_suggestion(name, limits)}")
    return spec.name, _parse(spec, text)


def _model_keys(values: Mapping[str, str]) -> dict[str, Secret]:
    """Read the variables that the targets' file names for its keys; its other mistakes are named by its reader."""
    file = values.get("MODEL_TARGETS_FILE", "").strip()
    if not file:
        return {}
    try:
        document = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"MODEL_TARGETS_FILE={file}: cannot be read: {error}") from error
    found = document.get("target")
    entries = found if isinstance(found, list) else []
    named = [entry.get("key_variable") for entry in entries if isinstance(entry, dict)]
    return {name: Secret(values[name]) for name in named if isinstance(name, str) and values.get(name)}


def _refuse_unknown(environ: Mapping[str, str], texts: Mapping[str, str], *, dotenv: Path) -> None:
    """Refuse any unknown name in `.env`, and in the environment, which is not all ours, a plainly misspelt one."""
    for name in texts:
        if name not in SETTINGS:
            raise SettingsError(f"{name}: unknown setting in {dotenv}{_suggestion(name, SETTINGS)}")
    unset = [name for name in SETTINGS if name not in environ and name not in texts]
    for name in environ:
        if name not in SETTINGS.keys() | COMPOSE_NAMES | OTEL_NAMES and (suggestion := _suggestion(name, unset)):
            raise SettingsError(f"{name}: unknown setting{suggestion}")


def _suggestion(name: str, known: Iterable[str]) -> str:
    matches = get_close_matches(name.upper(), list(known), n=1, cutoff=NEAR_MISS)
    return f"; did you mean {matches[0]}?" if matches else ""


def _read_dotenv(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    values: dict[str, str] = {}
    for number, raw in enumerate(lines, start=1):
        line = raw.strip().removeprefix("export ")
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise SettingsError(f"{path}, line {number}: expected NAME=value")
        if name in values:
            raise SettingsError(f"{name}: set twice in {path}")
        values[name] = _unquote(value)
    return values


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return re.split(r"\s#", value, maxsplit=1)[0].rstrip()


def _parse(spec: SettingSpec, text: str) -> object:
    try:
        if spec.choices:
            return _parse_choice(spec, text)
        return _PARSERS[spec.type](text)
    except ValueError as error:
        shown = "" if spec.type is Secret else f"={text}"
        raise SettingsError(f"{spec.env}{shown}: {error}") from error


def _parse_choice(spec: SettingSpec, text: str) -> object:
    word = text if spec.type is bool else text.lower()
    if word not in spec.choices:
        raise ValueError(f"must be {' or '.join(spec.choices)}")
    return word == "true" if spec.type is bool else spec.type(word)


def _parse_whole(text: str) -> int:
    if re.fullmatch(r"-?[0-9]{1,15}", text) is None:
        raise ValueError("must be a whole number")
    return int(text)


def _parse_decimal(text: str) -> Decimal:
    if re.fullmatch(r"-?([0-9]{1,15}(\.[0-9]{1,15})?|\.[0-9]{1,15})", text) is None:
        raise ValueError("must be a number")
    return Decimal(text)


def _parse_text(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("must not be empty")
    return text


_PARSERS: Final[Mapping[type, Callable[[str], object]]] = MappingProxyType(
    {
        int: _parse_whole,
        Decimal: _parse_decimal,
        str: _parse_text,
        Path: lambda text: Path(_parse_text(text)),
        Secret: lambda text: Secret(_parse_text(text)),
    }
)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def setting_text(value: object) -> str:
    """Write a value as the environment would hold it; a secret stays hidden."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def redact_url(url: str) -> str:
    """Write a URL without its user, password and query, for people and logs."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port is not None:
        host = f"{host}:{parts.port}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
