"""GET /ui/halts, POST /ui/halts/set and /ui/halts/lift: what is stopped, by whom and why; stop, and let go on.

Both need the scope admin, a typed word and a reason, and are recorded with the name of the person who answers for it.
"""

from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.db import api_keys
from app.db.halts import lift_halt, set_halt
from app.db.pages import latest_halts
from app.db.vocabulary import Scope
from app.domain.account import HaltState
from app.web.page import render_page
from app.web.site import PageError, PageRoute, Site, site_of
from app.web.visitor import Visitor, read_form, visitor

HALT_WORD: Final = "HALT"
RESUME_WORD: Final = "RESUME"
EVERY_ACCOUNT: Final = "every"
ONE_ACCOUNT: Final = "one"
LONGEST: Final = {"account": 64, "reason": 500, "operator": 100}

router = APIRouter(route_class=PageRoute)
log = structlog.stdlib.get_logger(__name__)

Reader = Annotated[Visitor, visitor(Scope.READ, Scope.ADMIN)]
Admin = Annotated[Visitor, visitor(Scope.ADMIN)]


class FormRefused(Exception):  # noqa: N818 (a form that a person may mend)
    """Say what is wrong with a form, and in which field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


@router.get("/ui/halts")
async def halts(request: Request, visitor: Reader) -> Response:
    """Show what stands and what stood."""
    return await _page(request, visitor)


@router.get("/ui/halts/set")
@router.get("/ui/halts/lift")
async def form_by_address() -> Response:
    """Lead back to the forms: a refused one leaves its address in the browser, and signing in leads on to it."""
    return RedirectResponse("/ui/halts", status_code=303)


@router.post("/ui/halts/set")
async def set_by_form(request: Request, visitor: Admin) -> Response:
    """Halt: no replica approves anything for the account after the answer."""
    fields = dict(await read_form(request, csrf_token=visitor.csrf_token))
    try:
        account_id = _account(visitor, fields)
        state = _state(fields)
        reason, operator = _text(fields, "reason"), _text(fields, "operator")
        _confirm(fields, HALT_WORD)
    except FormRefused as refused:
        return await _page(request, visitor, refused=refused, form="halt", fields=fields)
    site = site_of(request)
    stored = await set_halt(site.pool, account_id=account_id, state=state, reason=reason, operator=operator)
    log.warning(
        "halted", account_id=stored.account_id, state=stored.state, operator=operator, api_key_id=_key_id(visitor)
    )
    return RedirectResponse("/ui/halts", status_code=303)


@router.post("/ui/halts/lift")
async def lift_by_form(request: Request, visitor: Admin) -> Response:
    """Let trading go on."""
    fields = dict(await read_form(request, csrf_token=visitor.csrf_token))
    try:
        account_id = _account(visitor, fields)
        reason, operator = _text(fields, "reason"), _text(fields, "operator")
        _confirm(fields, RESUME_WORD)
    except FormRefused as refused:
        return await _page(request, visitor, refused=refused, form="resume", fields=fields)
    site: Site = site_of(request)
    lifted = await lift_halt(site.pool, account_id=account_id, reason=reason, operator=operator)
    if not lifted:
        # A name mistyped must not pass for an account that trades again.
        nothing = FormRefused("whose" if account_id is None else "account", "No such halt is in force.")
        return await _page(request, visitor, refused=nothing, form="resume", fields=fields)
    log.warning("resumed", account_id=account_id, halts=len(lifted), operator=operator, api_key_id=_key_id(visitor))
    return RedirectResponse("/ui/halts", status_code=303)


async def _page(
    request: Request,
    visitor: Visitor,
    *,
    refused: FormRefused | None = None,
    form: str | None = None,
    fields: dict[str, str] | None = None,
) -> Response:
    stored = await latest_halts(site_of(request).pool, accounts=visitor.accounts())
    return await render_page(
        request,
        visitor,
        "halts.html",
        section="halts",
        status=200 if refused is None else 422,
        in_force=[halt for halt in stored if halt.lifted_at is None],
        halted_account=next((halt.account_id for halt in stored if halt.lifted_at is None and halt.account_id), ""),
        lifted=[halt for halt in stored if halt.lifted_at is not None],
        may_halt=visitor.may(Scope.ADMIN),
        states=list(HaltState),
        halt_word=HALT_WORD,
        resume_word=RESUME_WORD,
        refused=refused,
        form=form,
        fields=fields or {},
    )


def _account(visitor: Visitor, fields: dict[str, str]) -> str | None:
    """Read whose trading it is about: None stands for every account."""
    whose = fields.get("whose", "")
    if whose == EVERY_ACCOUNT:
        if not visitor.sees_every_account:
            raise PageError(403, "Not for this key", "The key is not for every account.")
        return None
    if whose != ONE_ACCOUNT:
        raise FormRefused("whose", "Choose every account, or one.")
    account_id = _text(fields, "account")
    if account_id == api_keys.EVERY_ACCOUNT:
        raise FormRefused("account", "For every account make the other choice.")
    if not visitor.may_see(account_id):
        raise PageError(403, "Not for this key", f"The key is not for account {account_id}.")
    return account_id


def _state(fields: dict[str, str]) -> HaltState:
    try:
        return HaltState(fields.get("state", ""))
    except ValueError as error:
        raise FormRefused("state", "Choose what is to stop.") from error


def _text(fields: dict[str, str], name: str) -> str:
    text = fields.get(name, "").strip()
    if not text:
        raise FormRefused(name, "This is needed.")
    if len(text) > LONGEST[name] or not text.isprintable():
        raise FormRefused(name, f"At most {LONGEST[name]} characters, on one line.")
    return text


def _confirm(fields: dict[str, str], word: str) -> None:
    if fields.get("confirmation", "").strip() != word:
        raise FormRefused("confirmation", f"Type {word} in capitals to confirm.")


def _key_id(visitor: Visitor) -> str | None:
    return None if visitor.key is None else visitor.key.public_id
