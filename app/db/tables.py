"""The schema, readable in one place. The migrations under `alembic/` make it; a test proves the two equal.

What holds everywhere:

* Identifiers of decisions are UUIDv7, so they sort by time. Money and quantities are `numeric`, statistics
  `double precision`, times `timestamptz`.
* Enums are text with a CHECK made of the domain's own enum.
* PostgreSQL reads and compiles each CHECK of a table anew for every statement that writes it, but those of a type only
  once in a session. So in the tables that every decision writes, what one column may hold is said by its type, a
  PostgreSQL DOMAIN (docs/adr/0016). And where one statement fills several tables from the same values, as the one that
  records a decision does, `llm_decisions` alone refuses for all.
* `numeric` and `double precision` know NaN and infinity, and NaN sorts above everything: `x < 'Infinity'`
  refuses both.
* The service acts as `APP_ROLE`. It may read and append everywhere but in `READ_ONLY`, and change only what
  `UPDATABLE` names.
* `APPEND_ONLY` tables refuse UPDATE even from their owner, and DELETE and TRUNCATE unless the transaction
  said `SET LOCAL tradeverdict.retention = 'on'`: that is how old decisions are removed, on purpose.
* `NEVER_REMOVED` tables hold what decisions name. Nothing of them is deleted, not by their owner either, so decisions
  need no foreign key to them, whose check would lock the one row of a prompt for all decisions at once.
* JSON is `json`, not `jsonb`: it gives back the very bytes that were received, judged and sent.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Date,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import DOMAIN, JSON, TIMESTAMP, UUID

from app.db.vocabulary import KeyState, NotedEvent, ReleaseReason, Scope, StoredTextKind
from app.domain.account import AccountMode, HaltState
from app.domain.lifecycle import EventKind, ExitReason
from app.domain.model_call import CANCELLED, PROPOSED, WARMED
from app.domain.outcome import ForecastKind, LabelSource, OutcomeClass
from app.domain.proposal import Direction, EntryType, Mode, ModelFailure, Setup
from app.domain.recalibration import CalibratorState
from app.domain.tally import CONVICTION_BUCKETS
from app.domain.triple_barrier import PaperState
from app.domain.verdict import Verdict

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


def _time(name: str, *, nullable: bool = False, recorded: bool = False) -> Column[Any]:
    """Make a column of a time; a recorded one defaults to the database clock."""
    default = text("clock_timestamp()") if recorded else None
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable, server_default=default)


def _one_of(column: str, members: Iterable[str]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({_listed(members)})", name=column)


def _within(column: str, members: Iterable[str]) -> CheckConstraint:
    """Demand a non-empty array that holds nothing but these."""
    return CheckConstraint(f"{column} <@ ARRAY[{_listed(members)}] AND cardinality({column}) > 0", name=column)


def _listed(members: Iterable[str]) -> str:
    return ", ".join(f"'{member}'" for member in members)


def _amount(column: str) -> CheckConstraint:
    """Demand a finite amount of 0 or more."""
    return CheckConstraint(f"{column} >= 0 AND {column} < 'Infinity'", name=column)


def _domain(name: str, data_type: Any, check: str) -> DOMAIN:
    """Make a type of columns that holds no more than this of another."""
    return DOMAIN(name, data_type, check=text(check), constraint_name=f"{name}_check", metadata=metadata)


def _word(name: str, members: Iterable[str]) -> DOMAIN:
    return _domain(name, Text, f"VALUE IN ({_listed(members)})")


def _all_or_none(name: str, *columns: str) -> CheckConstraint:
    return CheckConstraint(f"num_nulls({', '.join(columns)}) IN (0, {len(columns)})", name=name)


def _both_or_none(one: str, other: str) -> str:
    """Say what `_all_or_none` says of two columns, in what PostgreSQL reads in less time."""
    return f"({one} IS NULL) = ({other} IS NULL)"


_AccountMode: Final = _word("account_mode", AccountMode)
_Action: Final = _word("proposed_action", Mode)
_Verdict: Final = _word("verdict_word", Verdict)
_Direction: Final = _word("trade_direction", Direction)
_Setup: Final = _word("setup_name", Setup)
_EntryType: Final = _word("entry_type", EntryType)
_ReleaseReason: Final = _word("release_reason", ReleaseReason)
_PaperState: Final = _word("paper_state", PaperState)
_OutcomeClass: Final = _word("outcome_class", OutcomeClass)
_CallOutcome: Final = _word("call_outcome", (*ModelFailure, PROPOSED, CANCELLED, WARMED))
# Finite: see above.
_Amount: Final = _domain("amount", Numeric, "VALUE >= 0 AND VALUE < 'Infinity'")
_PositiveAmount: Final = _domain("positive_amount", Numeric, "VALUE > 0 AND VALUE < 'Infinity'")
_Probability: Final = _domain("probability", Double, "VALUE BETWEEN 0 AND 1")
# What can be scored: a forecast that was certain and wrong has no finite log loss.
_UncertainProbability: Final = _domain("uncertain_probability", Double, "VALUE > 0 AND VALUE < 1")
_Percent: Final = _domain("whole_percent", SmallInteger, "VALUE BETWEEN 0 AND 100")
_Count: Final = _domain("natural_number", BigInteger, "VALUE >= 0")
_Tokens: Final = _domain("token_count", Integer, "VALUE >= 0")

accounts = Table(
    "accounts",
    metadata,
    # The row that gating transactions lock, made when an account is first seen. Whatever changes what is judged of
    # the account raises its version in the same transaction.
    Column("account_id", Text, primary_key=True),
    _time("created_at", recorded=True),
    Column("version", BigInteger, nullable=False, server_default=text("0")),
)

prompts = Table(
    "prompts",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    _time("created_at", recorded=True),
    _one_of("kind", StoredTextKind),
)

policies = Table(
    "policies",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("body", JSON, nullable=False),
    _time("created_at", recorded=True),
)

llm_decisions = Table(
    "llm_decisions",
    metadata,
    Column("decision_id", UUID, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("mode", _AccountMode, nullable=False),
    _time("as_of"),
    _time("decided_at"),
    _time("valid_until"),
    Column("action", _Action, nullable=False),
    Column("verdict", _Verdict, nullable=False),
    Column("reason_code", Text),
    Column("blocked_by", ARRAY(Text), nullable=False),
    Column("degraded", Boolean, nullable=False),
    Column("symbol", Text),
    Column("direction", _Direction),
    Column("setup", _Setup),
    Column("conviction", _Percent),
    Column("p_win_raw", _Probability),
    Column("p_win", _Probability),
    Column("ev_r", Double),
    Column("quantity", _Count),
    Column("notional_usd", _Amount),
    Column("risk_usd", _Amount),
    # The body as received and the account state as judged: with the policy they replay the decision exactly.
    Column("request", JSON, nullable=False),
    Column("state", JSON, nullable=False),
    Column("proposal", JSON),
    Column("raw_reply", Text),
    Column("response", JSON, nullable=False),
    Column("gates", JSON, nullable=False),
    Column("sizing", JSON),
    Column("ticket", JSON),
    Column("decider_name", Text, nullable=False),
    Column("model", Text),
    Column("prompt_hash", Text, nullable=False),
    Column("system_hash", Text, nullable=False),
    Column("prompt_user", Text, nullable=False),
    Column("policy_hash", Text, nullable=False),
    # What the decider's record said of it when the judge ruled: like the state, part of what replays the decision.
    Column("calibration", JSON),
    # The rest of it: buckets of the symbols at hand, and what the decider was. NULL before revision 0008.
    Column("judged_with", JSON),
    Column("attempts", SmallInteger, nullable=False),
    Column("hedged", Boolean, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cache_read_tokens", Integer, nullable=False),
    Column("cache_write_tokens", Integer, nullable=False),
    Column("cost_usd", _Amount, nullable=False),
    Column("stop_reason", Text),
    Column("model_request_id", Text),
    Column("model_latency_ms", Integer, nullable=False),
    Column("latency_ms", Integer, nullable=False),
    Column("request_id", Text),
    Column("api_key_id", Text),
    # What the request showed of its account: its mark, NULL where it leaves none. `account_days` refuses for these.
    Column("equity_usd", Numeric),
    Column("day_loss_usd", Numeric),
    Column("week_loss_usd", Numeric),
    # An order goes out exactly with an approval.
    CheckConstraint("(verdict IN ('approved', 'resized')) = (ticket IS NOT NULL)", name="ticket"),
    # Newest first, for each filter of GET /decisions; the id breaks ties and is the cursor.
    Index("llm_decisions_by_time", "decided_at", "decision_id"),
    Index("llm_decisions_by_account", "account_id", "decided_at", "decision_id"),
    Index("llm_decisions_by_symbol", "symbol", "decided_at", "decision_id"),
    Index("llm_decisions_by_verdict", "verdict", "decided_at", "decision_id"),
    # A row that is compressed to one page stays in it: most do, and cutting them up costs more than it saves.
    postgresql_with={"toast_tuple_target": 8160},
)

account_marks_before = Table(
    "account_marks_before",
    metadata,
    # The marks of decisions from before revision 0013. `account_marks` shows them with the later ones, each of which
    # stands in the row of its decision.
    Column("decision_id", UUID, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("mode", Text, nullable=False),
    _time("as_of"),
    Column("equity_usd", _PositiveAmount, nullable=False),
    Column("day_loss_usd", _Amount),
    Column("week_loss_usd", _Amount),
    Column("approved_entry", Boolean, nullable=False),
)

account_days = Table(
    "account_days",
    metadata,
    # The marks of an account, one row for each UTC day of their `as_of`: the first and the last by time and decision,
    # the deepest losses, and whether one of them was an approved entry. Baselines, deepest losses and sessions are
    # read off a few of these rows, however many marks there are. They refuse for the marks of `llm_decisions` too.
    Column("account_id", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("day", Date, nullable=False),
    _time("first_as_of"),
    Column("first_decision_id", UUID, nullable=False),
    Column("first_equity_usd", _PositiveAmount, nullable=False),
    _time("last_as_of"),
    Column("last_decision_id", UUID, nullable=False),
    Column("last_equity_usd", _PositiveAmount, nullable=False),
    Column("day_loss_usd", _Amount),
    Column("week_loss_usd", _Amount),
    Column("approved_entry", Boolean, nullable=False),
    PrimaryKeyConstraint("account_id", "mode", "day"),
    # Each decision changes its row, in the same page while that has room.
    postgresql_with={"fillfactor": 70},
)

ACCOUNT_MARKS: Final = """
CREATE VIEW account_marks AS
SELECT decision_id, account_id, mode, as_of, equity_usd, day_loss_usd, week_loss_usd, approved_entry
FROM account_marks_before
UNION ALL
SELECT
    decision_id, account_id, mode, as_of, equity_usd, day_loss_usd, week_loss_usd,
    action = 'trade' AND verdict IN ('approved', 'resized')
FROM llm_decisions WHERE equity_usd IS NOT NULL
"""
"""What each decision showed of its account, and whether it let it enter a trade: what `account_days` is made of, and
could be made of again. Nothing is judged by it."""
event.listen(metadata, "after_create", DDL(ACCOUNT_MARKS))  # type: ignore[no-untyped-call]

reservations = Table(
    "reservations",
    metadata,
    # No foreign key: the statement that records the decision makes this row too (docs/adr/0017).
    Column("decision_id", UUID, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("direction", _Direction, nullable=False),
    Column("quantity", _Amount, nullable=False),
    Column("notional_usd", _Amount, nullable=False),
    Column("risk_usd", _Amount, nullable=False),
    Column("buckets", ARRAY(Text), nullable=False),
    Column("reduce_only", Boolean, nullable=False),
    _time("created_at"),
    _time("expires_at"),
    _time("claimed_at", nullable=True),
    # A claimed ticket has no TTL.
    Column(
        "held_until",
        TIMESTAMP(timezone=True),
        Computed("CASE WHEN claimed_at IS NULL THEN expires_at ELSE 'infinity'::timestamptz END", persisted=True),
        nullable=False,
    ),
    Column("filled_quantity", _Amount, nullable=False, server_default=text("0")),
    # Set when nothing more will fill, to the time of the last fill as its reporter saw it.
    _time("filled_at", nullable=True),
    _time("stop_placed_at", nullable=True),
    # Set while a fill waits for word of its stop; when nobody gave it in time, that is noted and this is emptied.
    _time("stop_due_at", nullable=True),
    _time("unprotected_at", nullable=True),
    _time("released_at", nullable=True),
    Column("release_reason", _ReleaseReason),
    CheckConstraint(_both_or_none("released_at", "release_reason"), name="release"),
    # What may still be live, however many reservations there ever were.
    Index(
        "reservations_unfilled",
        "account_id",
        "mode",
        "held_until",
        postgresql_where=text("released_at IS NULL AND filled_at IS NULL"),
    ),
    Index(
        "reservations_filled",
        "account_id",
        "mode",
        "filled_at",
        postgresql_where=text("released_at IS NULL AND filled_at IS NOT NULL"),
    ),
    Index(
        "reservations_by_symbol",
        "account_id",
        "mode",
        "symbol",
        "created_at",
        postgresql_where=text("NOT reduce_only"),
    ),
    Index("reservations_stop_due", "stop_due_at", postgresql_where=text("stop_due_at IS NOT NULL")),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("public_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    # Account ids, or '*' alone for all.
    Column("accounts", ARRAY(Text), nullable=False),
    _time("created_at", recorded=True),
    _time("expires_at", nullable=True),
    _time("revoked_at", nullable=True),
    _time("last_used_at", nullable=True),
    CheckConstraint("octet_length(secret_sha256) = 32", name="secret_sha256"),
    _within("scopes", Scope),
    CheckConstraint("cardinality(accounts) > 0", name="accounts"),
)

halts = Table(
    "halts",
    metadata,
    Column("halt_id", BigInteger, Identity(always=True), primary_key=True),
    # NULL halts every account.
    Column("account_id", Text, ForeignKey("accounts.account_id")),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("operator", Text, nullable=False),
    _time("set_at", recorded=True),
    _time("lifted_at", nullable=True),
    Column("lifted_by", Text),
    Column("lift_reason", Text),
    _one_of("state", HaltState),
    CheckConstraint("operator <> ''", name="operator"),
    CheckConstraint("lifted_by <> ''", name="lifted_by"),
    _all_or_none("lift", "lifted_at", "lifted_by", "lift_reason"),
    Index("halts_in_force", "account_id", postgresql_where=text("lifted_at IS NULL")),
)

live_confirmations = Table(
    "live_confirmations",
    metadata,
    Column("confirmation_id", BigInteger, Identity(always=True), primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.account_id"), nullable=False),
    Column("operator", Text, nullable=False),
    _time("confirmed_at", recorded=True),
    _time("expires_at"),
    _time("revoked_at", nullable=True),
    Column("revoked_by", Text),
    CheckConstraint("operator <> ''", name="operator"),
    CheckConstraint("expires_at > confirmed_at", name="expires_at"),
    _all_or_none("revocation", "revoked_at", "revoked_by"),
    Index("live_confirmations_standing", "account_id", "expires_at", postgresql_where=text("revoked_at IS NULL")),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    # '' where authentication is off. Rows are never deleted: a used key never approves again, however old. What
    # was answered under it is in its decision, which retention may remove, hence no foreign key.
    Column("api_key_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    # Grows with each holder; a holder that lost its lease carries an old one, and its writes match no row.
    Column("fence", BigInteger, nullable=False),
    _time("lease_until"),
    Column("decision_id", UUID),
    _time("created_at", recorded=True),
    _time("finished_at", nullable=True),
    PrimaryKeyConstraint("api_key_id", "account_id", "key"),
    _one_of("state", KeyState),
    CheckConstraint(
        "num_nonnulls(finished_at, decision_id) = CASE state WHEN 'finished' THEN 2 ELSE 0 END",
        name="finished",
    ),
)

rate_windows = Table(
    "rate_windows",
    metadata,
    # The minute in which each API key ('' without authentication) is asking, and how often it did. Unlogged: what
    # a crash forgets is a minute's count, and counting costs no flush.
    Column("api_key_id", Text, primary_key=True),
    _time("started_at"),
    Column("requests", Integer, nullable=False),
    prefixes=["UNLOGGED"],
)

web_sessions = Table(
    "web_sessions",
    metadata,
    # Who is signed in to the pages: a hash of the cookie, and the key that was shown. A session ends with its key.
    Column("token_sha256", LargeBinary, primary_key=True),
    Column("api_key_id", Text, ForeignKey("api_keys.public_id"), nullable=False),
    _time("created_at", recorded=True),
    _time("expires_at"),
    _time("ended_at", nullable=True),
    CheckConstraint("octet_length(token_sha256) = 32", name="token_sha256"),
    CheckConstraint("expires_at > created_at", name="expires_at"),
)

decision_events = Table(
    "decision_events",
    metadata,
    Column("sequence", BigInteger, Identity(always=True), primary_key=True),
    Column("decision_id", UUID, ForeignKey("llm_decisions.decision_id"), nullable=False),
    # The caller's own: the same event told twice counts once.
    Column("event_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("event", Text, nullable=False),
    _time("at"),
    # Shares and price of this event alone, not running totals.
    Column("quantity", Numeric),
    Column("price", Numeric),
    Column("stop_placed", Boolean),
    Column("fees", Numeric),
    Column("exit_reason", Text),
    Column("realized_pnl", Numeric),
    # The event_id of the event that this one corrects.
    Column("corrects", Text),
    _time("recorded_at", recorded=True),
    Column("body", JSON, nullable=False),
    UniqueConstraint("decision_id", "event_id"),
    _one_of("mode", AccountMode),
    _one_of("event", (*EventKind, *NotedEvent)),
    _one_of("exit_reason", ExitReason),
    _amount("quantity"),
    _amount("price"),
    CheckConstraint("fees > '-Infinity' AND fees < 'Infinity'", name="fees"),
    CheckConstraint("realized_pnl > '-Infinity' AND realized_pnl < 'Infinity'", name="realized_pnl"),
    # Executed notional is computed from fills: one that lacks a number would count as nothing.
    CheckConstraint(
        "event NOT IN ('filled', 'partially_filled') OR (quantity IS NOT NULL AND price IS NOT NULL)", name="fill"
    ),
    CheckConstraint("(event = 'corrected') = (corrects IS NOT NULL)", name="corrects"),
    Index(
        "decision_events_fills",
        "account_id",
        "mode",
        "at",
        postgresql_where=text("event IN ('filled', 'partially_filled')"),
    ),
    Index("decision_events_outcomes", "sequence", postgresql_where=text("event = 'outcome'")),
)


_PERCENT_SUMS: Final = tuple(f"{name}{of}" for name in OutcomeClass for of in ("", "_percents", "_squares"))


def _counts_per_class() -> list[Column[Any]]:
    return [Column(name, BigInteger, nullable=False, server_default=text("0")) for name in OutcomeClass]


def _counts(*columns: str) -> list[CheckConstraint]:
    return [CheckConstraint(f"{column} >= 0", name=column) for column in columns]


forecasts = Table(
    "forecasts",
    metadata,
    # What each decision with a candidate foretold, and what came true: the label of the trade as executed, and
    # that of the same plan on paper. The label columns are what all events and bars say now; each change of them
    # is also an `outcome` event of its decision. Like the marks, forecasts outlive decisions that retention removes.
    Column("decision_id", UUID, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("mode", Text, nullable=False),
    _time("as_of"),
    Column("day", Date, Computed("(as_of AT TIME ZONE 'UTC')::date", persisted=True), nullable=False),
    Column("decider", Text, nullable=False),
    Column("prompt_hash", Text, nullable=False),
    Column("setup", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("direction", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("blocked_by", ARRAY(Text), nullable=False),
    Column("p_win", _UncertainProbability, nullable=False),
    Column("p_win_calibrated", _UncertainProbability),
    Column("p_win_percent", _Percent, nullable=False),
    Column("p_win_calibrated_percent", _Percent),
    Column("conviction", SmallInteger, nullable=False),
    Column("ev_r", Numeric),
    # The plan, dollars per share; `cost_usd` is that of the round trip, 0 where it could not be known.
    Column("entry_type", _EntryType, nullable=False),
    Column("entry", _PositiveAmount, nullable=False),
    Column("stop", Numeric, nullable=False),
    Column("target", Numeric, nullable=False),
    Column("cost_usd", _Amount, nullable=False),
    _time("time_stop_at"),
    Column("paper_state", _PaperState, nullable=False, server_default=text("'pending'")),
    Column("paper_outcome", _OutcomeClass),
    Column("paper_r", Numeric),
    _time("paper_entered_at", nullable=True),
    _time("paper_exit_at", nullable=True),
    Column("paper_exit_price", Numeric),
    Column("executed_outcome", _OutcomeClass),
    Column("executed_r", Numeric),
    _time("executed_entered_at", nullable=True),
    _time("executed_exit_at", nullable=True),
    Column("executed_exit_price", Numeric),
    Column("realized_usd", Numeric),
    Column("fees_usd", Numeric),
    # What bars and events say is whole or not there; one CHECK, for each is read anew by every statement.
    CheckConstraint(
        f"{_both_or_none('paper_outcome', 'paper_r')} AND {_both_or_none('executed_outcome', 'executed_r')}"
        " AND (paper_outcome IS NULL) = (paper_state <> 'resolved')",
        name="labels",
    ),
    # What bars of a symbol may resolve.
    Index("forecasts_by_symbol", "symbol", "account_id", "as_of"),
    Index(
        "forecasts_pending",
        "day",
        "account_id",
        postgresql_where=text("paper_state = 'pending' AND executed_outcome IS NULL"),
    ),
    # Approved although a gate blocked: empty, and counting it shows that it is.
    Index(
        "forecasts_breaching",
        "day",
        "account_id",
        postgresql_where=text("verdict IN ('approved', 'resized') AND cardinality(blocked_by) > 0"),
    ),
)

calibration_counts = Table(
    "calibration_counts",
    metadata,
    # How many forecasts of each whole percent came to each outcome. Everything that /calibration shows is
    # computed from here; no decision is read for it.
    Column("day", Date, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("decider", Text, nullable=False),
    Column("prompt_hash", Text, nullable=False),
    Column("setup", Text, nullable=False),
    Column("direction", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("forecast", Text, nullable=False),
    Column("percent", SmallInteger, nullable=False),
    *_counts_per_class(),
    PrimaryKeyConstraint(
        "day", "account_id", "decider", "prompt_hash", "setup", "direction", "source", "forecast", "percent"
    ),
    _one_of("source", LabelSource),
    _one_of("forecast", ForecastKind),
    CheckConstraint("percent BETWEEN 0 AND 100", name="percent"),
    *_counts(*OutcomeClass),
)

calibration_daily = Table(
    "calibration_daily",
    metadata,
    # The same counts without account, prompt, setup and direction: what the usual question asks.
    Column("day", Date, nullable=False),
    Column("source", Text, nullable=False),
    Column("forecast", Text, nullable=False),
    Column("decider", Text, nullable=False),
    Column("percent", SmallInteger, nullable=False),
    *_counts_per_class(),
    PrimaryKeyConstraint("day", "source", "forecast", "decider", "percent"),
    _one_of("source", LabelSource),
    _one_of("forecast", ForecastKind),
    CheckConstraint("percent BETWEEN 0 AND 100", name="percent"),
    *_counts(*OutcomeClass),
)

calibration_sums = Table(
    "calibration_sums",
    metadata,
    # What the forecasts of a day amount to by bucket of conviction, `lower` being the least percent in it: per
    # outcome how many they are, and the sums of their percents and of the squares of these.
    Column("day", Date, nullable=False),
    Column("source", Text, nullable=False),
    Column("forecast", Text, nullable=False),
    Column("decider", Text, nullable=False),
    Column("lower", SmallInteger, nullable=False),
    *[Column(name, BigInteger, nullable=False, server_default=text("0")) for name in _PERCENT_SUMS],
    PrimaryKeyConstraint("day", "source", "forecast", "decider", "lower"),
    _one_of("source", LabelSource),
    _one_of("forecast", ForecastKind),
    CheckConstraint(f"lower IN ({', '.join(str(lower) for lower, _ in CONVICTION_BUCKETS)})", name="lower"),
    *_counts(*_PERCENT_SUMS),
)

outcome_sums = Table(
    "outcome_sums",
    metadata,
    # R multiples, summed per outcome class; `ev` sums the expected values of the `ev_n` forecasts that had one,
    # `ev_r` what these brought. Numeric, so that sums are exact in whatever order outcomes arrive.
    Column("day", Date, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("decider", Text, nullable=False),
    Column("setup", Text, nullable=False),
    Column("direction", Text, nullable=False),
    Column("source", Text, nullable=False),
    *_counts_per_class(),
    *[Column(f"r_{name}", Numeric, nullable=False, server_default=text("0")) for name in OutcomeClass],
    Column("r_squares", Numeric, nullable=False, server_default=text("0")),
    Column("ev_n", BigInteger, nullable=False, server_default=text("0")),
    Column("ev", Numeric, nullable=False, server_default=text("0")),
    Column("ev_r", Numeric, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("day", "account_id", "decider", "setup", "direction", "source"),
    _one_of("source", LabelSource),
    *_counts(*OutcomeClass, "ev_n"),
)

gate_sums = Table(
    "gate_sums",
    metadata,
    # How many forecasts each code blocked, how many of them the bars have resolved since, and in what sum of R.
    Column("day", Date, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("decider", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("blocked", _Count, nullable=False, server_default=text("0")),
    Column("resolved", _Count, nullable=False, server_default=text("0")),
    Column("won", _Count, nullable=False, server_default=text("0")),
    Column("r", Numeric, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("day", "account_id", "decider", "code"),
)

decision_counts = Table(
    "decision_counts",
    metadata,
    # How many decisions ended how; `reason_code` is '' where there is none.
    Column("day", Date, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("decider", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("reason_code", Text, nullable=False),
    Column("decisions", _Count, nullable=False),
    PrimaryKeyConstraint("day", "account_id", "decider", "action", "verdict", "reason_code"),
)

paper_bars = Table(
    "paper_bars",
    metadata,
    # Bars that can resolve a forecast of the account. Of several reports of one bar the first counts.
    Column("account_id", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("interval_s", Integer, nullable=False),
    _time("t"),
    Column("o", Numeric, nullable=False),
    Column("h", Numeric, nullable=False),
    Column("l", Numeric, nullable=False),
    Column("c", Numeric, nullable=False),
    _time("recorded_at", recorded=True),
    PrimaryKeyConstraint("account_id", "symbol", "interval_s", "t"),
    CheckConstraint("interval_s > 0", name="interval_s"),
    CheckConstraint("l > 0 AND l <= least(o, c) AND h >= greatest(o, c) AND h < 'Infinity'", name="prices"),
)

calibrators = Table(
    "calibrators",
    metadata,
    # Each change of a decider's calibrator, with its reason; the latest row of a decider and prompt is in force.
    Column("calibrator_id", BigInteger, Identity(always=True), primary_key=True),
    Column("decider", Text, nullable=False),
    Column("prompt_hash", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("intercept", Double),
    Column("slope", Double),
    # Resolved forecasts when it was fitted, those it was fitted on and those held out; the gain in Brier on the latter.
    Column("resolved", BigInteger, nullable=False),
    Column("fitted_on", BigInteger, nullable=False),
    Column("held_out", BigInteger, nullable=False),
    Column("gain_brier", Double),
    Column("gain_z", Double),
    Column("reason", Text, nullable=False),
    _time("made_at", recorded=True),
    _one_of("state", CalibratorState),
    _all_or_none("map", "intercept", "slope"),
    CheckConstraint("state = 'off' OR intercept IS NOT NULL", name="map_in_use"),
    Index("calibrators_in_force", "decider", "prompt_hash", "calibrator_id"),
)

calibration_metrics = Table(
    "calibration_metrics",
    metadata,
    # Snapshots of a decider's calibration, taken by one writer among all replicas.
    Column("metrics_id", BigInteger, Identity(always=True), primary_key=True),
    _time("computed_at", recorded=True),
    Column("window_days", SmallInteger, nullable=False),
    Column("decider", Text, nullable=False),
    Column("forecast", Text, nullable=False),
    Column("resolved", BigInteger, nullable=False),
    Column("pending", BigInteger, nullable=False),
    Column("brier", Double),
    Column("slope", Double),
    Column("calibration_error", Double),
    Column("calibration_error_t", Double),
    Column("e_value", Double),
    Column("verdict", Text, nullable=False),
    Column("derated", Boolean, nullable=False),
    Column("report", JSON, nullable=False),
    # The last `outcome` event that had been recorded when it was taken.
    Column("outcome_sequence", BigInteger, nullable=False),
    _one_of("forecast", ForecastKind),
    CheckConstraint("window_days > 0", name="window_days"),
    Index("calibration_metrics_latest", "decider", "window_days", "metrics_id"),
)

model_calls = Table(
    "model_calls",
    metadata,
    # The ledger: every call of every target, the failed and cancelled ones too. A budget and GET /costs read it.
    Column("call_id", BigInteger, Identity(always=True), primary_key=True),
    # NULL: made to keep the target warm.
    Column("decision_id", UUID),
    Column("account_id", Text),
    Column("api_key_id", Text),
    Column("target", Text, nullable=False),
    Column("model", Text, nullable=False),
    # Milliseconds after the decider was asked, and from then on.
    Column("started_ms", Integer, nullable=False),
    Column("latency_ms", Integer, nullable=False),
    # `proposal`, `cancelled`, or the code of its failure.
    Column("outcome", _CallOutcome, nullable=False),
    Column("detail", Text),
    Column("hedged", Boolean, nullable=False),
    Column("cancelled", Boolean, nullable=False),
    Column("status", SmallInteger),
    Column("input_tokens", _Tokens, nullable=False),
    Column("output_tokens", _Tokens, nullable=False),
    Column("cache_read_tokens", _Tokens, nullable=False),
    Column("cache_write_tokens", _Tokens, nullable=False),
    Column("cost_usd", _Amount, nullable=False),
    # Whether a price is known, and whether the tokens are our estimate: a call that was cut off never says.
    Column("priced", Boolean, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("request_id", Text),
    Column("stop_reason", Text),
    _time("recorded_at", recorded=True),
    Index("model_calls_by_decision", "decision_id"),
    Index("model_calls_by_time", "recorded_at"),
    Index(
        "model_calls_by_cost",
        "api_key_id",
        "recorded_at",
        postgresql_include=["cost_usd"],
        postgresql_where=text("cost_usd > 0"),
    ),
)

APPEND_ONLY: Final = (
    "prompts",
    "policies",
    "llm_decisions",
    "account_marks_before",
    "decision_events",
    "calibrators",
    "calibration_metrics",
    "model_calls",
)

READ_ONLY: Final = ("account_marks_before", "account_marks")
"""Nothing is appended to these: a table that has its successor, and the view of both."""

NEVER_REMOVED: Final = ("accounts", "prompts", "policies")

_PER_CLASS: Final = tuple(str(name) for name in OutcomeClass)

UPDATABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "accounts": ("version",),
    "account_days": (
        *("first_as_of", "first_decision_id", "first_equity_usd"),
        *("last_as_of", "last_decision_id", "last_equity_usd"),
        *("day_loss_usd", "week_loss_usd", "approved_entry"),
    ),
    "reservations": (
        "claimed_at",
        "filled_quantity",
        "filled_at",
        "stop_placed_at",
        "stop_due_at",
        "unprotected_at",
        "released_at",
        "release_reason",
    ),
    "api_keys": ("last_used_at", "revoked_at"),
    "halts": ("lifted_at", "lifted_by", "lift_reason"),
    "live_confirmations": ("revoked_at", "revoked_by"),
    "idempotency_keys": ("state", "fence", "lease_until", "decision_id", "finished_at"),
    "rate_windows": ("started_at", "requests"),
    "web_sessions": ("ended_at",),
    "forecasts": (
        "paper_state",
        "paper_outcome",
        "paper_r",
        "paper_entered_at",
        "paper_exit_at",
        "paper_exit_price",
        "executed_outcome",
        "executed_r",
        "executed_entered_at",
        "executed_exit_at",
        "executed_exit_price",
        "realized_usd",
        "fees_usd",
    ),
    "calibration_counts": _PER_CLASS,
    "calibration_daily": _PER_CLASS,
    "calibration_sums": _PERCENT_SUMS,
    "outcome_sums": (*_PER_CLASS, *(f"r_{name}" for name in _PER_CLASS), "r_squares", "ev_n", "ev", "ev_r"),
    "gate_sums": ("blocked", "resolved", "won", "r"),
    "decision_counts": ("decisions",),
}
