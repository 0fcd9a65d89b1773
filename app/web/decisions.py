"""GET /, GET /ui/latest and GET /ui/decisions/{id}: the latest decisions, and the whole way of one."""

from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from app.db.pages import (
    NEWEST,
    Cursor,
    DecisionPage,
    calls_of_decision,
    get_labels,
    get_policy_body,
    page_of_decisions,
)
from app.db.queries import get_decision, get_decision_prompt, list_events
from app.db.records import DecisionRecord
from app.db.vocabulary import Scope
from app.domain.gate_effects import gate_of
from app.domain.verdict import Verdict
from app.web.bars import Bar, observed_bar, share_bar
from app.web.page import render_page, standing_halts
from app.web.periods import Account
from app.web.rendering import TEMPLATES
from app.web.site import PageError, PageRoute, site_of
from app.web.visitor import Visitor, visitor

PAGE: Final = 50
MOST_EVENTS: Final = 200
MOST_NEWS: Final = 50
NOT_FIGURES: Final = ("symbol", "bars", "buckets")
Json = dict[str, Any]

router = APIRouter(route_class=PageRoute)

Reader = Annotated[Visitor, visitor(Scope.READ)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFilter:
    """Hold what a list is of; None stands for any."""

    account: str | None
    verdict: Verdict | None

    def query(self, **more: str) -> str:
        """Write it as a query, with what else the address holds; empty where there is nothing."""
        fields = {"account": self.account, "verdict": self.verdict, **more}
        given = {name: str(value) for name, value in fields.items() if value}
        return f"?{urlencode(given)}" if given else ""


def _filter(account: str, verdict: str) -> DecisionFilter:
    """Read what a form of filters sent, in which a field that was left alone is empty."""
    try:
        return DecisionFilter(account=account.strip() or None, verdict=Verdict(verdict) if verdict else None)
    except ValueError as error:
        raise PageError(404, "Not found", "There is no such verdict.") from error


@router.get("/")
async def start(
    request: Request,
    visitor: Reader,
    account: Account = "",
    verdict: str = "",
    before: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Show the latest decisions, or those before a cursor."""
    wanted = _filter(account, verdict)
    try:
        cursor = Cursor.read(before) if before else NEWEST
    except (ValueError, OverflowError) as error:
        raise PageError(404, "Not found", "There is no such page.") from error
    page = await _page(request, visitor, wanted, cursor)
    return await render_page(
        request,
        visitor,
        "decisions.html",
        section="decisions",
        page=page,
        wanted=wanted,
        verdicts=list(Verdict),
        accounts=visitor.accounts(),
        is_first=not before,
        older=_older(wanted, page),
        newest="/" + wanted.query(),
        latest="/ui/latest" + wanted.query(),
    )


@router.get("/ui/latest")
async def latest(request: Request, visitor: Reader, account: Account = "", verdict: str = "") -> Response:
    """Give the rows of the first page and the halts above it, as the page itself would have them now."""
    wanted = _filter(account, verdict)
    page = await _page(request, visitor, wanted, NEWEST)
    rows = TEMPLATES.get_template("_decision_rows.html").render(page=page)
    halts = TEMPLATES.get_template("_halt_banner.html").render(halts=await standing_halts(site_of(request), visitor))
    return JSONResponse({"rows": rows, "halts": halts, "older": _older(wanted, page)})


def _older(wanted: DecisionFilter, page: DecisionPage) -> str | None:
    """Give the address of what lies below a page; None where nothing does."""
    return None if page.following is None else "/" + wanted.query(before=str(page.following))


async def _page(request: Request, visitor: Visitor, wanted: DecisionFilter, before: Cursor) -> DecisionPage:
    return await page_of_decisions(
        site_of(request).pool,
        accounts=visitor.accounts(wanted.account),
        verdict=wanted.verdict,
        before=before,
        limit=PAGE,
    )


@router.get("/ui/decisions/{decision_id}")
async def decision(request: Request, visitor: Reader, decision_id: UUID) -> HTMLResponse:
    """Show the whole way of one decision, from what was sent to what came of it."""
    pool = site_of(request).pool
    record = await get_decision(pool, decision_id)
    if record is None or not visitor.may_see(record.account_id):
        raise PageError(404, "Not found", f"There is no decision {decision_id}.")
    answer: Json = orjson.loads(record.response)
    sent: Json = orjson.loads(record.request)
    policy = await get_policy_body(pool, record.policy_hash)
    events = await list_events(pool, decision_id)
    return await render_page(
        request,
        visitor,
        "decision.html",
        section="decisions",
        record=record,
        answer=answer,
        blocked_at=None if record.reason_code is None else gate_of(record.reason_code),
        sent=sent,
        symbols=[_symbol(of, record) for of in sent["market"]],
        news=sent.get("news", [])[:MOST_NEWS],
        news_left_out=max(0, len(sent.get("news", [])) - MOST_NEWS),
        said=None if record.proposal is None else orjson.loads(record.proposal),
        gates=[(gate, observed_bar(gate["observed"], gate["limit"])) for gate in answer["gates"]],
        caps=_caps(answer),
        buckets=_buckets(answer),
        chart=_chart(sent, answer),
        events=[(event, orjson.loads(event.body)) for event in events[-MOST_EVENTS:]],
        events_left_out=max(0, len(events) - MOST_EVENTS),
        labels=await get_labels(pool, decision_id),
        calls=await calls_of_decision(pool, decision_id),
        prompt=await get_decision_prompt(pool, decision_id),
        policy=None if policy is None else orjson.loads(policy),
    )


def _symbol(sent: Json, record: DecisionRecord) -> Json:
    """Give what was sent of one symbol, without its bars but with their number."""
    bars = sent.get("bars") or []
    return {
        **sent,
        "bars": len(bars),
        "judged": sent["symbol"] == record.symbol,
        "fields": {name: value for name, value in sent.items() if name not in NOT_FIGURES and value is not None},
    }


def _caps(answer: Json) -> list[tuple[Json, bool, Bar | None]]:
    """Set every cap beside the others, with the one that binds."""
    sizing = answer["sizing"]
    if sizing is None:
        return []
    # A cap of millions of shares would hide the others; what matters lies near the one that binds.
    smallest = min(cap["max_quantity"] for cap in sizing["caps"])
    scale = max(1, 4 * smallest)
    return [
        (cap, cap["cap"] == sizing["binding_cap"], share_bar(cap["max_quantity"], of=scale)) for cap in sizing["caps"]
    ]


def _buckets(answer: Json) -> list[tuple[Json, Bar | None]]:
    risk = answer["risk_state"]
    return [(use, observed_bar(use["exposure_pct"], use["limit_pct"])) for use in risk["buckets"]]


def _chart(sent: Json, answer: Json) -> Json | None:
    """Give the bars of the judged symbol with the plan's prices, where bars were sent."""
    proposal = answer["proposal"]
    if proposal is None:
        return None
    bars = next((of.get("bars") or [] for of in sent["market"] if of["symbol"] == proposal["symbol"]), [])
    if len(bars) < 2:
        return None
    plan = {
        "Entry": proposal.get("entry_price"),
        "Stop": proposal.get("stop_loss") or proposal.get("new_stop"),
        "Target": proposal.get("target_price") or proposal.get("new_target"),
    }
    return {
        "symbol": proposal["symbol"],
        "bars": {
            name: [bar.get(letter) for bar in bars]
            for name, letter in (("t", "t"), ("open", "o"), ("high", "h"), ("low", "l"), ("close", "c"))
        },
        "plan": [{"name": name, "price": float(price)} for name, price in plan.items() if price is not None],
    }
