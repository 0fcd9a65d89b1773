"""Every page in a real browser: no error, no request elsewhere, readable, reachable by keyboard, in both themes.

One Chromium, one service with live data and one with an empty store for the whole module. Each page is loaded once and
looked at in both themes at both widths; axe is asked twice, with PROVE=1 in all four.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import pytest
from axe_playwright_python.base import AXE_FILE_PATH  # type: ignore[import-untyped]
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from app.db.api_keys import EVERY_ACCOUNT, IssuedKey, create_key
from app.db.embedded import EmbeddedPostgres
from app.db.vocabulary import Scope
from app.main import create_app
from app.settings import Auth
from tests.api.conftest import on_database, serving, settings_for
from tests.api.scenes import nvda_trade
from tests.fakes import NEUTRAL, FakeDecider
from tests.web.trading import Trading, history, today

CHROMIUM: Final = "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(
    shutil.which(CHROMIUM) is None, reason=f"the pages are looked at in {CHROMIUM}: apt-get install chromium"
)

PROVE: Final = os.environ.get("PROVE") == "1"
WIDTHS: Final = {"phone": (360, 740), "desktop": (1280, 800)}
HELD_TO_AXE: Final = {("light", "desktop"), ("dark", "phone")}
RULES: Final = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
PAGES: Final = ("/", "/ui/calibration", "/ui/gates", "/ui/model", "/ui/exposure", "/ui/halts")
CHARTED: Final = 15_000
"""Milliseconds in which the charts of a page must be drawn, on a machine that does other things besides."""

WIDER_THAN_THE_WINDOW: Final = "document.documentElement.scrollWidth > window.innerWidth"
OPERABLE: Final = """() => [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')]
    .filter((one) => one.type !== 'hidden' && one.checkVisibility({visibilityProperty: true}) && !one.disabled)
    .filter((one) => one.type !== 'radio' || one.checked)
    .map((one) => (one.dataset.place = String(window.places = (window.places ?? -1) + 1)))"""
FOCUSED: Final = """() => {
    const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
    return {place: one.dataset.place ?? null, skip: one.classList.contains('skip'),
        outlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
        shown: box.width > 0 && box.bottom > 0 && box.top < innerHeight,
        what: one.outerHTML.slice(0, 100)};
}"""


@dataclass(frozen=True, slots=True)
class Desk:
    """A service with trading on it."""

    client: httpx2.Client
    decider: FakeDecider
    told: dict[str, dict[str, Any]]

    @property
    def pages(self) -> tuple[str, ...]:
        kinds = self.told if PROVE else ("approved", "blocked")
        # axe looks at every cell of the list: twelve rows of it will do.
        first = "/" if PROVE else "/?account=desk-1"
        return (first, *PAGES[1:], *(f"/ui/decisions/{self.told[kind]['decision_id']}" for kind in kinds))


@dataclass  # without slots: Playwright keeps something of its own on whom it calls
class Watched:
    """What a page did that it must not do."""

    origin: str
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", self._miss)
        page.on("request", lambda request: self._note(request.url))

    def _hear(self, said: ConsoleMessage) -> None:
        if said.type in ("error", "warning"):
            self.complaints.append(said.text)

    def _miss(self, request: Request) -> None:
        # What was under way when the page was left is aborted.
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"{request.url}: {request.failure}")

    def _note(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.origin:
            self.elsewhere.append(url)


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    yield postgres.create_database("web_browser", template=migrated_template)
    postgres.drop_database("web_browser")


@pytest.fixture(scope="module")
def desk(database: str) -> Iterator[Desk]:
    decider = FakeDecider()
    with serving(create_app(settings_for(database), decider=decider)) as client:
        trading = Trading(client, decider)
        history(trading)
        told = today(trading)
        client.post(
            "/halt", json={"account_id": "desk-9", "state": "reduce_only", "reason": "feed is stale", "operator": "ana"}
        ).raise_for_status()
        yield Desk(client, decider, told)


@pytest.fixture(scope="module")
def empty(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[Desk]:
    url = postgres.create_database("web_browser_empty", template=migrated_template)
    decider = FakeDecider()
    with serving(create_app(settings_for(url), decider=decider)) as client:
        yield Desk(client, decider, {})
    postgres.drop_database("web_browser_empty")


@pytest.fixture(scope="module")
def night_key(database: str) -> IssuedKey:
    """A key of a person who may halt; made before the browser, whose event loop lets no other run beside it."""
    scopes, accounts = (Scope.READ, Scope.ADMIN), (EVERY_ACCOUNT,)
    return on_database(
        database, lambda pool: create_key(pool, name="night desk", scopes=scopes, accounts=accounts, expires_at=None)
    )


@pytest.fixture(scope="module")
def browser(night_key: IssuedKey) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def visiting(browser: Browser, client: httpx2.Client, *, width: str = "desktop") -> Iterator[tuple[Page, Watched]]:
    """A page of its own; what it must not do is asserted at the end."""
    across, down = WIDTHS[width]
    origin = str(client.base_url).rstrip("/")
    context = browser.new_context(
        base_url=origin, viewport={"width": across, "height": down}, color_scheme="light", reduced_motion="reduce"
    )
    context.set_default_timeout(CHARTED)
    page, watched = context.new_page(), Watched(origin)
    watched.watch(page)
    try:
        yield page, watched
        assert watched.complaints == []
        assert watched.elsewhere == []
    finally:
        context.close()


def open_page(page: Page, path: str) -> None:
    """Open a page, and wait until its charts are drawn."""
    answer = page.goto(path)
    assert answer is not None
    assert answer.status == 200, path
    until(page, "[...document.querySelectorAll('.chart')].every((one) => one.matches('.drawn'))")


def until(page: Page, holds: str) -> None:
    """Wait for what an expression says; Playwright's own waiting needs eval, which the pages forbid."""
    last = monotonic() + CHARTED / 1000
    while not page.evaluate(holds):
        assert monotonic() < last, f"it never held that {holds}"
        page.wait_for_timeout(25)


def violations(page: Page) -> list[str]:
    """What axe finds, with what it finds it in."""
    page.evaluate(_axe())
    found = page.evaluate("(rules) => axe.run(document, rules)", RULES)["violations"]
    return [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]


@cache
def _axe() -> str:
    return Path(AXE_FILE_PATH).read_text(encoding="utf-8")


def look_at(page: Page, path: str) -> None:
    """Hold one page, loaded once, to everything in both themes at both widths."""
    open_page(page, path)
    assert page.locator("h1").count() == 1
    for theme, width in (("light", "desktop"), ("dark", "desktop"), ("dark", "phone"), ("light", "phone")):
        across, down = WIDTHS[width]
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": across, "height": down})
        until(page, f"document.documentElement.clientWidth <= {across}")
        assert not page.evaluate(WIDER_THAN_THE_WINDOW), (path, theme, width)
        if PROVE or (theme, width) in HELD_TO_AXE:
            assert violations(page) == [], (path, theme, width)


def test_every_page_with_live_data_is_sound(browser: Browser, desk: Desk) -> None:
    with visiting(browser, desk.client) as (page, _):
        for path in desk.pages:
            look_at(page, path)


def test_every_page_with_an_empty_store_is_sound_and_the_first_decision_takes_its_place(
    browser: Browser, empty: Desk
) -> None:
    with visiting(browser, empty.client) as (page, _):
        for path in PAGES:
            look_at(page, path)
        open_page(page, "/")
        assert page.locator("#empty").is_visible()
        decision = Trading(empty.client, empty.decider).decide(NEUTRAL, account="first")
        page.locator(f"tr[data-id='{decision['decision_id']}']").wait_for()
        page.goto("about:blank")


def test_charts_are_drawn_in_the_colours_of_the_theme(browser: Browser, desk: Desk) -> None:
    with visiting(browser, desk.client) as (page, _):
        open_page(page, "/ui/calibration")
        tone = "getComputedStyle(document.querySelector('.chart .xtick text')).fill"
        light = page.evaluate(tone)
        page.emulate_media(color_scheme="dark")
        until(page, f"{tone} !== '{light}'")

        assert page.locator(".chart .main-svg").count() >= 2
        assert page.evaluate(tone) == "rgb(227, 233, 240)", "--text of the dark theme"


def test_tab_reaches_everything_in_order_and_shows_where_it_is(browser: Browser, desk: Desk) -> None:
    with visiting(browser, desk.client) as (page, _):
        for path in ("/?account=fund-7", *PAGES[1:], desk.pages[len(PAGES)]):
            open_page(page, path)
            walk(page, path)


def walk(page: Page, path: str) -> None:
    """Press Tab from the top of a page to its end."""
    places = page.evaluate(OPERABLE)
    reached: list[str] = []
    for _ in places:
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        assert focused["outlined"], (path, focused["what"])
        assert focused["shown"], (path, focused["what"])
        reached.append(focused["place"])

    assert reached == places, path


def test_new_decisions_appear_without_a_reload(browser: Browser, desk: Desk) -> None:
    with visiting(browser, desk.client) as (page, _):
        open_page(page, "/?account=desk-live")
        page.evaluate("window.stayed = true")
        decision = Trading(desk.client, desk.decider).decide(nvda_trade(), account="desk-live")
        row = page.locator(f"tr[data-id='{decision['decision_id']}']")
        row.wait_for()
        halt = {"account_id": None, "state": "halted", "reason": "flash crash", "operator": "ben"}
        desk.client.post("/halt", json=halt).raise_for_status()
        page.locator("#halts", has_text="flash crash").wait_for()
        resume = {"account_id": None, "reason": "calm again", "operator": "ben"}
        desk.client.request("DELETE", "/halt", json=resume).raise_for_status()

        assert "approved" in row.inner_text()
        assert page.locator("#live-status").inner_text() == "One new decision."
        assert page.evaluate("window.stayed"), "the page must not have been loaded again"


def test_what_arrives_leaves_no_gap_before_the_older_page(browser: Browser, desk: Desk) -> None:
    with visiting(browser, desk.client) as (page, _):
        first = "<tr data-id='new-0'><td>new</td></tr>"
        open_page(page, "/")
        shown = page.locator("#decisions tr").evaluate_all("rows => rows.map(row => row.outerHTML)")
        following = page.locator("#older").get_attribute("href")
        latest: dict[str, Any] = {"halts": "", "rows": "".join([first, *shown[:49]]), "older": "/?before=first"}
        page.route("**/ui/latest*", lambda route: route.fulfill(json=latest))
        page.locator("tr[data-id='new-0']").wait_for()
        one = (page.locator("#decisions tr").count(), page.locator("#older").get_attribute("href"))
        latest |= {
            "rows": "".join(f"<tr data-id='more-{number}'></tr>" for number in range(50)),
            "older": "/?before=last",
        }
        page.locator("tr[data-id='more-0']").wait_for(state="attached")

        assert following not in (None, "/?before=first")
        assert one == (50, "/?before=first")
        assert page.locator("tr[data-id^='more-']").count() == page.locator("#decisions tr").count() == 50
        assert page.locator("#older").get_attribute("href") == "/?before=last"


def test_without_scripts_a_page_says_the_same(browser: Browser, desk: Desk) -> None:
    context = browser.new_context(base_url=str(desk.client.base_url), java_script_enabled=False)
    page = context.new_page()
    try:
        page.goto("/")
        assert page.locator("#decisions tr").count() == 50
        page.locator("text=Older").click()
        assert page.locator("h1").inner_text() == "Earlier decisions"
        page.goto("/ui/calibration")
        assert "The chart needs JavaScript" in page.locator("main").inner_text()
        page.locator("summary").first.click()
        assert page.locator("details[open] table").is_visible()
    finally:
        context.close()


def test_a_person_signs_in_halts_resumes_and_signs_out(browser: Browser, database: str, night_key: IssuedKey) -> None:
    guarded = create_app(settings_for(database, auth=Auth.ON), decider=FakeDecider())
    with (
        serving(guarded) as client,
        visiting(browser, client, width="phone") as (page, _),
    ):
        page.goto("/ui/halts")
        assert violations(page) == []
        assert not page.evaluate(WIDER_THAN_THE_WINDOW)
        page.get_by_label("API key").fill(night_key.token)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/ui/halts")

        halt = page.locator("form[action='/ui/halts/set']")
        halt.get_by_label("This account").check()
        halt.get_by_label("Account to halt").fill("desk-night")
        halt.get_by_label("Everything").check()
        halt.get_by_label("Why").fill("numbers look <b>odd</b>")
        halt.get_by_label("Who answers for it").fill("Cem")
        halt.get_by_label("Type HALT to confirm").fill("HALT")
        halt.get_by_role("button", name="Halt").click()
        page.locator("#halts", has_text="desk-night: numbers look <b>odd</b>").wait_for()
        assert violations(page) == []

        resume = page.locator("form[action='/ui/halts/lift']")
        resume.get_by_label("Account to resume").fill("desk-night")
        resume.get_by_label("Why").fill("checked")
        resume.get_by_label("Who answers for it").fill("Cem")
        resume.get_by_label("Type RESUME to confirm").fill("RESUME")
        resume.get_by_role("button", name="Resume").click()
        page.locator("section[aria-labelledby='earlier']", has_text="desk-night").wait_for()
        assert "desk-night" not in page.locator("section[aria-labelledby='in-force']").inner_text()

        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/sign-in")
        page.goto("/ui/halts")
        assert page.locator("h1").inner_text() == "Sign in"
