"""Say which limits of rulebook §4 an order breaks once it is filled, by plain arithmetic.

This asks another question than the oracle: not "how would you decide?" but "is what was decided within every
limit?". It takes the oracle's reading of the data (what a position is worth, what was lost so far) and none
of its formulas for gates and caps.
"""

from fractions import Fraction

from tests import oracle
from tests.oracle import number
from tests.properties.worlds import BUCKET_MAP, Record, World

F = Fraction


def broken_limits(world: World, candidate: Record, *, quantity: int, risk_per_share: Fraction) -> list[str]:
    """Name every limit that `quantity` shares of the candidate break, bought or sold at its entry price."""
    as_of = world.snapshot["as_of"]
    resolved = {entry["symbol"]: oracle.resolve_symbol(entry, as_of, BUCKET_MAP) for entry in world.snapshot["market"]}
    symbol = resolved[candidate["symbol"]]
    assert symbol.atr is not None
    assert symbol.adv is not None
    assert symbol.spread is not None
    is_long = candidate["direction"] == "long"
    entry = symbol.ask if is_long else symbol.bid
    if candidate["entry_type"] != "market":
        entry = number(candidate["entry_price"])
    stop, target = number(candidate["stop_loss"]), number(candidate["target_price"])
    gain, loss = (target - entry, entry - stop) if is_long else (entry - target, stop - entry)

    policy, equity = world.policy, number(world.account["equity"])
    held: dict[str, bool] = {
        "one share": quantity >= 1,
        "MIN_ORDER_NOTIONAL": quantity * entry >= policy["min_order_notional"],
        "MAX_ORDER_NOTIONAL": quantity * entry <= policy["max_order_notional"],
        "PER_TRADE_RISK_BPS": quantity * risk_per_share <= equity * policy["per_trade_risk_bps"] / 10000,
        "risk below planned loss": risk_per_share >= loss,
        "MAX_ADV_PARTICIPATION": quantity * entry <= policy["max_adv_participation"] * symbol.adv,
        "MIN_ADV": symbol.adv >= policy["min_adv"],
        "MAX_SPREAD_PCT": symbol.spread <= policy["max_spread_pct"],
        "MIN_PRICE": symbol.price >= policy["min_price"],
        "MIN_MARKET_CAP": symbol.market_cap is None or symbol.market_cap >= policy["min_market_cap"],
        "shortable": is_long or symbol.shortable is True,
        "loss side": loss > 0,
        "win side": gain > 0,
        "MIN_STOP_ATR": loss >= policy["min_stop_atr"] * symbol.atr,
        "MAX_STOP_ATR": loss <= policy["max_stop_atr"] * symbol.atr,
        "MAX_TARGET_ATR": gain <= policy["max_target_atr"] * symbol.atr,
        "PRICE_COLLAR_ATR": abs(entry - symbol.mid) <= policy["price_collar_atr"] * symbol.atr,
    }
    held |= portfolio_limits(world, resolved, candidate["symbol"], quantity * entry, quantity * risk_per_share)
    return [name for name, within in held.items() if not within]


def portfolio_limits(
    world: World, resolved: dict[str, oracle.Symbol], name: str, notional: Fraction, risk: Fraction
) -> dict[str, bool]:
    """Tell for every limit on the account whether it holds with the order filled."""
    account, state, policy = world.account, world.state, world.policy
    equity = number(account["equity"])
    book = oracle.open_book(account, state, resolved, BUCKET_MAP)
    at_risk = book.open_risk + book.reserved_risk + risk
    sent_power = oracle.optional(account.get("buying_power"))
    power = number(account["cash"]) if sent_power is None else sent_power
    executed = max(
        oracle.optional(account.get("daily_executed_notional")) or F(0), number(state["executed_notional_usd"])
    )
    day = oracle.period_loss(account, state, sent="daily_pnl", period="day")
    week = oracle.period_loss(account, state, sent="weekly_pnl", period="week")
    own = book.by_symbol.get(name, F(0))
    held = {
        "portfolio known": book.missing is None,
        "MAX_SYMBOL_EXPOSURE_PCT": own + notional <= policy["max_symbol_exposure_pct"] * equity,
        "MAX_LEVERAGE": book.gross + notional <= policy["max_leverage"] * equity,
        "buying power": book.reserved + notional <= power,
        "MAX_DAILY_NOTIONAL": executed + book.reserved + notional <= policy["max_daily_notional"],
        "MAX_DAILY_LOSS_PCT": day is not None and day.so_far + at_risk <= policy["max_daily_loss_pct"] * day.baseline,
        "MAX_WEEKLY_LOSS_PCT": week is not None
        and week.so_far + at_risk <= policy["max_weekly_loss_pct"] * week.baseline,
    }
    for bucket in resolved[name].buckets:
        used = book.by_bucket.get(bucket, F(0)) + notional
        held[f"MAX_BUCKET_EXPOSURE_PCT of {bucket}"] = used <= policy["max_bucket_exposure_pct"] * equity
    return held
