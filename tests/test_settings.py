"""Settings come from the environment and `.env`, and a wrong or unknown one stops the start with one line."""

from decimal import Decimal
from pathlib import Path

import pytest

from app.cli.reference import env_example, settings_markdown
from app.domain.policy import Policy, ScaleOut
from app.settings import (
    COMPOSE_NAMES,
    SETTINGS,
    Auth,
    DeciderChoice,
    Derating,
    LogLevel,
    Recalibration,
    Secret,
    Settings,
    SettingsError,
    load_settings,
    redact_url,
)

REPOSITORY = Path(__file__).parent.parent
NO_DOTENV = Path("no-such.env")


def load(**environ: str) -> Settings:
    return load_settings(environ, dotenv=NO_DOTENV)


def refusal(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(**environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = load()

    assert settings == Settings()
    assert settings.policy() == Policy()
    assert settings.auth is Auth.ON
    assert settings.model_strict_tools is True
    assert settings.anthropic_model == "claude-haiku-5-5"
    assert settings.max_body_bytes == 1_048_576


def test_every_limit_of_the_policy_is_a_setting_by_its_upper_case_name() -> None:
    settings = load(
        PER_TRADE_RISK_BPS="12.5", MAX_SNAPSHOT_AGE_S="0", SCALE_OUT="thirds", LIVE_ALLOWED="false", MIN_EV_PCT=".01"
    )

    assert settings.policy() == Policy(
        per_trade_risk_bps=Decimal("12.5"), max_snapshot_age_s=0, scale_out=ScaleOut.THIRDS, min_ev_pct=Decimal("0.01")
    )


@pytest.mark.parametrize("name", [name for name, spec in SETTINGS.items() if spec.low is not None])
def test_a_value_outside_its_bounds_stops_the_start_and_names_it(name: str) -> None:
    spec = SETTINGS[name]

    assert refusal(**{name: str(int(Decimal(str(spec.high))) + 1)}).startswith(f"{name}=")
    assert refusal(**{name: "-1"}).startswith(f"{name}=-1")


@pytest.mark.parametrize("text", ["", "1_000", "nan", "inf", "1e3", "12px", "٣", "--1", " "])
@pytest.mark.parametrize("name", ["MIN_ADV", "MAX_BODY_BYTES"])
def test_what_is_not_plainly_a_number_stops_the_start(name: str, text: str) -> None:
    assert refusal(**{name: text}).startswith(f"{name}=")


@pytest.mark.parametrize("text", ["", "True", "TRUE", "yes", "1", "on", "t", "tru", "treu", "live"])
def test_live_is_allowed_by_exactly_true_and_nothing_else_starts(text: str) -> None:
    assert refusal(LIVE_ALLOWED=text).startswith(f"LIVE_ALLOWED={text}: must be true or false")


def test_live_is_allowed_by_exactly_true() -> None:
    assert load(LIVE_ALLOWED="true").policy().live_allowed is True


def test_live_with_the_age_check_off_stops_the_start() -> None:
    assert refusal(LIVE_ALLOWED="true", MAX_SNAPSHOT_AGE_S="0").startswith("MAX_SNAPSHOT_AGE_S=0")


def test_limits_that_contradict_each_other_stop_the_start() -> None:
    assert refusal(MAX_DAILY_LOSS_PCT="0.2", MAX_WEEKLY_LOSS_PCT="0.1").startswith("MAX_DAILY_LOSS_PCT=")


def test_words_may_be_written_in_capitals() -> None:
    settings = load(LOG_LEVEL="WARNING", AUTH="Off", DECIDER="RULES")

    assert settings.log_level is LogLevel.WARNING
    assert settings.auth is Auth.OFF
    assert settings.decider is DeciderChoice.RULES


def test_what_follows_from_a_bad_record_is_on_unless_it_was_turned_off() -> None:
    assert (load().recalibration, load().calibration_derating) == (Recalibration.AUTO, Derating.ON)
    settings = load(RECALIBRATION="Shadow", CALIBRATION_DERATING="off")
    assert (settings.recalibration, settings.calibration_derating) == (Recalibration.SHADOW, Derating.OFF)
    assert refusal(RECALIBRATION="on") == "RECALIBRATION=on: must be auto or shadow or off"


def test_an_unknown_word_stops_the_start_and_lists_the_known_ones() -> None:
    assert refusal(DECIDER="gpt") == "DECIDER=gpt: must be auto or anthropic or rules"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("MAX_DALY_LOSS_PCT", "MAX_DAILY_LOSS_PCT"),
        ("PER_TRADE_RISK_BP", "PER_TRADE_RISK_BPS"),
        ("LIVE_ALOWED", "LIVE_ALLOWED"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("max_order_notional", "MAX_ORDER_NOTIONAL"),
    ],
)
def test_a_misspelt_setting_stops_the_start(wrong: str, right: str) -> None:
    assert refusal(**{wrong: "1"}) == f"{wrong}: unknown setting; did you mean {right}?"


def test_an_ordinary_environment_is_left_alone() -> None:
    ordinary = {
        "PATH": "/usr/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "HOSTNAME": "box",
        "XDG_DATA_DIRS": "/usr/share",
        "PGHOST": "db",
        "PORT": "8000",
        "MAKELEVEL": "1",
        "TEST_DATABASE_URL": "x",
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "ANTHROPIC_AUTH_TOKEN": "x",
        "POSTGRES_PASSWORD": "x",
    }

    assert load(**ordinary) == Settings()


def test_a_name_near_a_setting_that_is_set_is_left_alone() -> None:
    assert load(MIN_ADV="5", MIN_ADVS="6").policy().min_adv == 5


def test_dotenv_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        "# ours\n\nexport AUTH=off\nMIN_ADV = 5 # low\nANTHROPIC_MODEL='some model'\nBUCKETS_FILE=\nMIN_PRICE=2\n"
    )

    settings = load_settings({"MIN_PRICE": "3"}, dotenv=dotenv)

    assert settings.auth is Auth.OFF
    assert settings.anthropic_model == "some model"
    assert settings.buckets_file is None
    assert settings.policy() == Policy(min_adv=Decimal(5), min_price=Decimal(3))


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("MIN_AVD=1", "MIN_AVD: unknown setting in .env; did you mean MIN_ADV?"),
        ("SOMETHING=1", "SOMETHING: unknown setting in .env"),
        ("MIN_ADV", ".env, line 1: expected NAME=value"),
        ("MIN_ADV=1\nMIN_ADV=2", "MIN_ADV: set twice in .env"),
        ("MIN_ADV=x", "MIN_ADV=x: must be a number"),
    ],
)
def test_a_faulty_dotenv_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, refused: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(text)

    with pytest.raises(SettingsError) as caught:
        load_settings({})

    assert str(caught.value) == refused


def test_an_optional_setting_left_empty_is_unset() -> None:
    assert load(DATABASE_URL="", ANTHROPIC_API_KEY=" ", MAX_AGGRESSIVENESS_LEVEL="") == Settings()


def test_the_decider_follows_the_key() -> None:
    assert load().uses_anthropic is False
    assert load(ANTHROPIC_API_KEY="k").uses_anthropic is True
    assert load(ANTHROPIC_API_KEY="k", DECIDER="rules").uses_anthropic is False
    assert refusal(DECIDER="anthropic").startswith("DECIDER=anthropic")


def test_a_base_url_must_be_a_web_address() -> None:
    assert refusal(ANTHROPIC_BASE_URL="localhost:8080").startswith("ANTHROPIC_BASE_URL")


def test_a_base_url_holds_no_user_whom_the_header_with_the_key_would_deny() -> None:
    refused = refusal(ANTHROPIC_BASE_URL="https://me:canary@gateway/v1")

    assert refused == "ANTHROPIC_BASE_URL: holds a user or password; the key is ANTHROPIC_API_KEY"


def test_a_lease_must_outlast_the_deadline_or_is_lengthened_when_nobody_set_it() -> None:
    assert load().idempotency_lease.total_seconds() == 10
    assert load(DECISION_DEADLINE_MS="9999").idempotency_lease.total_seconds() == 10
    assert load(DECISION_DEADLINE_MS="10000").idempotency_lease.total_seconds() == 11
    assert load(IDEMPOTENCY_LEASE_S="2", DECISION_DEADLINE_MS="1999").idempotency_lease.total_seconds() == 2
    assert refusal(IDEMPOTENCY_LEASE_S="2", DECISION_DEADLINE_MS="2000").startswith("IDEMPOTENCY_LEASE_S=2")


def test_a_trial_without_keys_is_held_to_a_rate_limit_only_when_one_was_set() -> None:
    assert load(AUTH="off").limits_requests_without_key is False
    assert load(AUTH="off", RATE_LIMIT_PER_MINUTE="600").limits_requests_without_key is True


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.org", "127.0.0.1.example.org", ""])
def test_serving_without_keys_is_refused_beyond_loopback(host: str) -> None:
    with pytest.raises(SettingsError, match=r"^AUTH=off"):
        load(AUTH="off").require_safe_host(host)

    load(AUTH="on").require_safe_host(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_serving_without_keys_is_allowed_on_loopback(host: str) -> None:
    load(AUTH="off").require_safe_host(host)


def test_secrets_do_not_show() -> None:
    settings = load(ANTHROPIC_API_KEY="sk-canary", DATABASE_URL="postgresql://me:canary@db/x")

    assert "canary" not in f"{settings} {settings!r} {settings.anthropic_api_key}"
    assert settings.anthropic_api_key == Secret("sk-canary")
    assert settings.secrets == ("postgresql://me:canary@db/x", "sk-canary", "canary")


def test_a_faulty_secret_is_refused_without_showing_it() -> None:
    assert "canary" not in refusal(ANTHROPIC_API_KEY="canary\x07")


def test_an_address_is_shown_without_what_it_authenticates() -> None:
    assert redact_url("postgresql://me:pw@db:5432/x?password=pw") == "postgresql://db:5432/x"
    assert redact_url("https://[::1]:8443/v1") == "https://[::1]:8443/v1"


def test_the_example_file_names_every_setting_with_its_default(tmp_path: Path) -> None:
    uncommented = "\n".join(
        line.removeprefix("#") for line in env_example().splitlines() if line.startswith("#") and line[1:2].isupper()
    )
    dotenv = tmp_path / ".env"
    dotenv.write_text(uncommented)

    assert load_settings({}, dotenv=dotenv).policy() == Policy()
    assert uncommented.count("\n") + 1 == len(SETTINGS) + len(COMPOSE_NAMES)


def test_the_files_in_the_repository_are_current() -> None:
    assert (REPOSITORY / ".env.example").read_text() == env_example()
    assert (REPOSITORY / "docs" / "settings.md").read_text() == settings_markdown()


def test_the_passwords_of_docker_compose_may_stand_in_the_same_file(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("POSTGRES_PASSWORD=abc\nTRADEVERDICT_API_PASSWORD=def\nMIN_PRICE=2\n")

    settings = load_settings({"TRADEVERDICT_API_PASSWORD": "def"}, dotenv=dotenv)

    assert settings.policy().min_price == 2
    assert "abc" not in repr(settings)
