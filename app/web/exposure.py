"""GET /ui/exposure: what each account was exposed to when it last asked, by bucket, beside the limits."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response

from app.db.pages import MOST_ACCOUNTS, AccountRisk, latest_risks
from app.db.vocabulary import Scope
from app.web.bars import Bar, observed_bar
from app.web.page import render_page
from app.web.periods import Account
from app.web.site import PageRoute, site_of
from app.web.visitor import Visitor, visitor

router = APIRouter(route_class=PageRoute)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountExposure:
    """Hold an account's risk as its latest decision saw it, with a bar for each bucket, the fullest first."""

    account: AccountRisk
    equity_usd: Decimal | None
    risk: dict[str, Any]
    buckets: list[tuple[dict[str, Any], Bar | None]]


@router.get("/ui/exposure")
async def exposure(
    request: Request,
    visitor: Annotated[Visitor, visitor(Scope.READ)],
    account: Account = "",
) -> Response:
    """Show the accounts that asked last, or one."""
    site = site_of(request)
    risks = await latest_risks(site.pool, accounts=visitor.accounts(account.strip() or None))
    return await render_page(
        request,
        visitor,
        "exposure.html",
        section="exposure",
        account=account.strip(),
        exposures=[_exposure(of) for of in risks],
        most=MOST_ACCOUNTS,
        policy=site.policy,
    )


def _exposure(account: AccountRisk) -> AccountExposure:
    risk = orjson.loads(account.risk_state)
    fullest = sorted(risk["buckets"], key=lambda use: (-use["exposure_pct"] / use["limit_pct"], use["bucket"]))
    return AccountExposure(
        account=account,
        equity_usd=None if account.equity is None else Decimal(account.equity),
        risk=risk,
        buckets=[(use, observed_bar(use["exposure_pct"], use["limit_pct"])) for use in fullest],
    )
