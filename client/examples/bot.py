"""A whole bot: decide, claim, place the order with its stop, report, close. Put your broker in place of `Broker`."""

import time
from datetime import UTC, datetime
from decimal import Decimal

import tradeverdict_client as tv

LOST = (tv.NoAnswer, tv.ServiceError, tv.RateLimited)


class Broker:
    """Stand in for your broker and feed: every order fills at once, and every position reaches its target."""

    def snapshot(self) -> tv.Snapshot:  # what is known now; leave out what is not
        account = tv.Account(id="paper-1", equity=100_000, cash=100_000, positions=(), daily_pnl=0, weekly_pnl=0)
        amd = tv.SymbolData(symbol="AMD", price=140, bid=139.97, ask=140, atr=4, adv=6e9, rsi=61, ma_20=136, ma_50=131)
        return tv.Snapshot(account=account, as_of=datetime.now(UTC), market=[amd])

    def place(self, ticket: tv.Ticket) -> Decimal:  # together with its stop, under `ticket.client_order_id`
        print(f"{ticket.side} {ticket.quantity} {ticket.symbol} at {ticket.entry_price}, stop {ticket.stop_loss}")
        return ticket.entry_price or Decimal(140)

    def wait_for_exit(self, ticket: tv.Ticket) -> Decimal:
        return ticket.target or Decimal(150)


def tell(client: tv.TradeVerdict, ticket: tv.Ticket, event: tv.Event) -> None:
    """Report until it is answered: the same event counts once, and what is not reported is not known."""
    while True:
        try:
            report = client.report(ticket, event)
            return print(f"{event.event}: {report.ticket.phase}", report.result or "")
        except LOST as lost:
            print(f"{lost}; telling it again")
            time.sleep(1)


def trade(client: tv.TradeVerdict, broker: Broker) -> None:
    """Make one decision and see it through."""
    decision = client.decide(broker.snapshot())
    if not decision.should_execute():
        return print(f"{decision.verdict}: {decision.reason_code}", *decision.blocked_by)
    ticket = decision.use()  # with `reduce_only` it closes what is held and opens nothing
    try:
        client.claim(ticket)  # from now on the order is this bot's to place, and nobody else's
        price = broker.place(ticket.use())  # refuses if that took longer than the ticket is good for
    except tv.Conflict as refused:  # too late, halted, or claimed by another
        return print(f"not placed: {refused}")
    except (tv.TicketExpired, *LOST):  # perhaps claimed, surely not placed
        return tell(client, ticket, tv.Event.cancelled())
    tell(client, ticket, tv.Event.filled(quantity=ticket.quantity, price=price, stop_placed=True))
    return tell(client, ticket, tv.Event.closed(exit_reason="target", price=broker.wait_for_exit(ticket)))


if __name__ == "__main__":
    with tv.TradeVerdict() as service:  # TRADEVERDICT_URL and TRADEVERDICT_API_KEY, else http://127.0.0.1:8000
        trade(service, Broker())
        print("calibration:", service.calibration(days=30).verdict)
