"""Write the commands that empty pages tell people to send first; a test runs them as they stand."""

from app.web.visitor import Visitor

_FIRST = """\
{
  "account": {"id": "paper-1", "equity": 100000, "cash": 100000,
              "daily_pnl": 0, "weekly_pnl": 0, "positions": []},
  "as_of": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "market": [{"symbol": "NVDA", "price": 125.40, "bid": 125.38, "ask": 125.42,
              "atr": 4.1, "adv": 31000000000, "avg_volume": 250000000,
              "ma_20": 121.0, "ma_50": 117.5, "rsi": 61, "shortable": true}]
}"""
_FILL = """\
{"event_id": "fill-1", "event": "filled", "at": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
 "quantity": 53, "price": "125.40", "stop_placed": true}"""
_CLOSE = """\
{"event_id": "close-1", "event": "closed", "at": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
 "price": "137.00", "exit_reason": "target"}"""


def first_decision(host: str, *, visitor: Visitor) -> str:
    """Ask for a decision of a paper account."""
    return _post(f"{host}/decide", _FIRST, visitor=visitor)


def first_outcome(host: str, *, visitor: Visitor) -> str:
    """Report that an order was filled and its position closed; the id of the decision is the reader's to fill in."""
    address = f"{host}/decisions/DECISION_ID/events"
    return "\n".join((_post(address, _FILL, visitor=visitor), _post(address, _CLOSE, visitor=visitor)))


def _post(address: str, body: str, *, visitor: Visitor) -> str:
    key = "" if visitor.key is None else ' \\\n  -H "Authorization: Bearer $TRADEVERDICT_API_KEY"'
    return f"curl -sS {address} -H 'Content-Type: application/json'{key} -d @- <<JSON\n{body}\nJSON"
