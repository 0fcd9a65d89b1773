"""Lay a decision out for people, from the very document that programs get."""

from decimal import Decimal
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.domain.market import MarketView

STATUS_STYLES = {"pass": "green", "block": "bold red", "not_applicable": "dim"}
VERDICT_STYLES = {"approved": "bold green", "resized": "bold green", "blocked": "bold red", "no_trade": "bold yellow"}

Json = dict[str, Any]


def decision_view(decision: Json) -> RenderableType:
    """Show one decision: proposal, edge, gates, caps, and the ticket or why there is none."""
    return Group(
        _proposal(decision),
        _gates(decision["gates"]),
        *([] if decision["sizing"] is None else [_caps(decision["sizing"])]),
        *([] if decision["order"] is None else [_ticket(decision["order"], until=decision["valid_until"])]),
        _verdict(decision),
    )


def account_line(account: Json) -> Text:
    """Show the account that was sent, in one line."""
    held = ", ".join(f"{position['quantity']} {position['symbol']}" for position in account["positions"])
    return Text(
        f"Account {account['id']}: equity {account['equity']:,}, cash {account['cash']:,}, "
        f"P&L today {account['daily_pnl']:,}, this week {account['weekly_pnl']:,}; holds {held or 'nothing'}"
    )


def market_table(market: MarketView) -> Table:
    """Show what counts of a snapshot."""
    table = Table(title=f"Snapshot of {market.as_of:%Y-%m-%d %H:%M} UTC")
    table.add_column("Symbol")
    for heading in ("Price", "Spread", "ATR(14)", "RSI(14)", "MA20", "MA50", "ADV, $M"):
        table.add_column(heading, justify="right")
    table.add_column("Bars until")
    table.add_column("Buckets")
    for view in market.symbols:
        millions = None if view.adv is None else view.adv / 1_000_000
        table.add_row(
            view.symbol,
            _figure(view.price),
            "" if view.spread_pct is None else f"{view.spread_pct:.3%}",
            *map(_figure, (view.atr, view.rsi, view.ma_20, view.ma_50, millions)),
            f"{view.bars[-1].t:%Y-%m-%d}" if view.bars else "",
            " ".join(view.buckets),
        )
    return table


def _figure(value: Decimal | float | None) -> str:
    return "" if value is None else f"{value:,.2f}"


def _fields(title: str, fields: Json) -> Table:
    table = Table(title=title, show_header=False)
    for name, value in fields.items():
        table.add_row(name, _plain(value))
    return table


def _plain(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100_000 else f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _proposal(decision: Json) -> Table:
    who = decision["decider"]
    fields = {"decider": f"{who['name']} ({who['model']}), {who['latency_ms']} ms", "action": decision["action"]}
    fields |= decision["proposal"] or {}
    fields |= {f"edge: {name}": value for name, value in (decision["edge"] or {}).items()}
    fields |= {f"watch {item['symbol']}": item["trigger"] for item in decision["watchlist"]}
    return _fields("Proposal", fields | ({"notes": decision["notes"]} if decision["notes"] else {}))


def _gates(gates: list[Json]) -> Table:
    table = Table("Gate", "Status", "Observed", "Limit", "Unit", "Code", "Detail", title="Gates")
    for gate in gates:
        table.add_row(
            gate["gate"],
            Text(gate["status"], style=STATUS_STYLES[gate["status"]]),
            _plain(gate["observed"]),
            _plain(gate["limit"]),
            gate["unit"],
            gate["code"] or "",
            gate["detail"],
        )
    return table


def _caps(sizing: Json) -> Table:
    table = Table("Cap", "Most shares", "", title=f"Size: {sizing['risk_per_share']} at risk per share")
    for cap in sizing["caps"]:
        binding = cap["cap"] == sizing["binding_cap"]
        table.add_row(
            cap["cap"], f"{cap['max_quantity']:,}", "binds" if binding else "", style="bold" if binding else ""
        )
    return table


def _ticket(order: Json, *, until: str) -> Table:
    targets = ", ".join(f"{target['price']} ({target['fraction']:.0%})" for target in order["targets"])
    collar = order["price_collar"]
    shown = order | {
        "targets": targets,
        "price_collar": None if collar is None else f"{collar['low']} to {collar['high']}",
        "valid_until": until,
    }
    return _fields(f"Ticket: {order['side']} {order['quantity']} {order['symbol']}", shown)


def _verdict(decision: Json) -> Text:
    said = Text("Verdict: ")
    said.append(decision["verdict"], style=VERDICT_STYLES[decision["verdict"]])
    if decision["reason_code"]:
        said.append(f" ({decision['reason_code']})")
    issues = [
        f"\n  data: {issue['symbol'] or ''} {issue['field']}: {issue['issue']}" for issue in decision["data_quality"]
    ]
    return said.append("".join(issues))
