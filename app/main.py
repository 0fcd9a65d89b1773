"""Put the service together. Nothing else makes pools, deciders or the app; nothing here decides anything."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.api import (
    bars,
    calibration,
    costs,
    decide,
    decisions,
    events,
    export,
    exposure,
    gates,
    halt,
    health,
    outcomes,
    prompts,
    setups,
    whatif,
)
from app.api.auth import Authenticator
from app.api.errors import install_error_handlers
from app.api.middleware import RequestMiddleware
from app.api.openapi import install_openapi
from app.api.runtime import Runtime
from app.buckets import BucketFileError, load_buckets
from app.calibration_watch import follow_calibration, write_calibration
from app.db.engine import ConnectionPool, asyncpg_url, create_pool
from app.db.operations import Store
from app.db.standings import Standings
from app.domain.buckets import BucketMap
from app.domain.model_call import ModelCall
from app.domain.policy import Policy
from app.llm.decider import Decider
from app.llm.messages import MessagesClient
from app.llm.prompt import render_system
from app.llm.routing import RoutedDecider, RoutingOptions
from app.llm.rules import RulesDecider
from app.llm.targets import load_targets
from app.paper_desk import PaperDesk
from app.service import DecisionService
from app.settings import Auth, LastResort, Settings, SettingsError
from app.telemetry import Metrics
from app.tracing import Recorder, Tracing
from app.watch import watch_fills, watch_spending, watch_store, watch_targets, watch_warming
from app.web import router as pages
from app.web.site import Site

DESCRIPTION: Final = """\
The model proposes, code disposes: a snapshot comes in, a decider proposes, gates judge, volatility sizes, the store
records, and only then the verdict goes out. Every error is `application/problem+json` with a stable `code`."""

CONNECTIONS_PER_CALL: Final = 3
FRAMEWORK_TELEMETRY: Final[TelemetryConfig] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""The framework's own spans and logs would hold what was sent, and the text of errors; ours (app/otlp.py) do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """Hold the parts that need no connection; what is wrong with the settings shows when they are made."""

    settings: Settings
    policy: Policy
    buckets: BucketMap
    database_url: str
    decider: Decider
    warming: asyncio.Queue[ModelCall]
    metrics: Metrics
    tracing: Tracing

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Runtime]:
        """Connect, and close everything at the end; a database that is away is waited for by no one."""
        self.tracing.recorder = make_recorder(self.settings)
        pool = await create_pool(self.database_url, max_size=self.settings.database_pool_size)
        standings = Standings(
            pool, recalibration=self.settings.recalibration, derating=self.settings.calibration_derating
        )
        paper_desk = PaperDesk(pool)
        try:
            yield Runtime(
                settings=self.settings,
                policy=self.policy,
                buckets=self.buckets,
                pool=pool,
                authenticator=Authenticator(
                    pool,
                    auth=self.settings.auth,
                    requests_per_minute=self.settings.rate_limit_per_minute,
                    limit_without_key=self.settings.limits_requests_without_key,
                ),
                standings=standings,
                service=DecisionService(
                    store=Store(pool),
                    standings=standings,
                    decider=self.decider,
                    policy=self.policy,
                    buckets=self.buckets,
                    metrics=self.metrics,
                    max_model_calls=self.settings.max_concurrent_model_calls,
                    model_budget_usd=self.settings.model_budget_usd_per_day,
                    follow=paper_desk.take,
                ),
                paper_desk=paper_desk,
                metrics=self.metrics,
                warnings=warnings(self.settings),
            )
        finally:
            await self.decider.close()
            await pool.close()
            if self.tracing.recorder is not None:
                await self.tracing.recorder.close()

    def site(self, pool: ConnectionPool) -> Site:
        """Make what the pages work with."""
        decider = self.decider
        return Site(
            settings=self.settings,
            policy=self.policy,
            pool=pool,
            targets=decider.states if isinstance(decider, RoutedDecider) else dict,
            warnings=warnings(self.settings),
        )

    def target_watches(self, pool: ConnectionPool) -> list[Coroutine[Any, Any, None]]:
        """Make the watches over model targets, where there are any."""
        if not isinstance(self.decider, RoutedDecider):
            return []
        return [
            self.decider.keep_warm(render_system(self.policy)),
            watch_targets(self.decider, self.metrics),
            watch_warming(pool, self.warming, self.metrics),
        ]


def compose(settings: Settings, *, decider: Decider | None = None) -> Composition:
    """Make the parts; `decider` replaces the one that the settings choose.

    Raises:
        SettingsError: a part cannot be made from the settings.
    """
    try:
        buckets = load_buckets(settings.buckets_file)
    except BucketFileError as error:
        raise SettingsError(f"BUCKETS_FILE: {error}") from error
    warming: asyncio.Queue[ModelCall] = asyncio.Queue()
    return Composition(
        settings=settings,
        policy=settings.policy(),
        buckets=buckets,
        database_url=database_url(settings),
        decider=decider or make_decider(settings, on_warm=warming.put_nowait),
        warming=warming,
        metrics=Metrics(),
        tracing=Tracing(),
    )


def make_recorder(settings: Settings) -> Recorder | None:
    """Make what records spans, where the settings say who collects them.

    Raises:
        SettingsError: OpenTelemetry cannot be set up as its own variables say.
    """
    if settings.spans_endpoint is None:
        return None
    from app.otlp import OtlpRecorder  # noqa: PLC0415 (OpenTelemetry's SDK is loaded only where it is used)

    try:
        return OtlpRecorder(
            endpoint=settings.spans_endpoint,
            headers=settings.span_headers,
            service_name=settings.otel_service_name,
            version=__version__,
        )
    except ValueError as error:
        raise SettingsError(f"OTEL_: {error}") from error


def database_url(settings: Settings) -> str:
    """Give the address of the database as the driver reads it.

    Raises:
        SettingsError: there is none, or it is not PostgreSQL's.
    """
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL: must be set")
    try:
        return asyncpg_url(settings.database_url.reveal())
    except ValueError as error:
        raise SettingsError(f"DATABASE_URL: {error}") from error


def make_decider(settings: Settings, *, on_warm: Callable[[ModelCall], None] | None = None) -> Decider:
    """Make the decider that the settings choose.

    Raises:
        SettingsError: a target cannot be used, or not within a budget.
    """
    if not settings.uses_anthropic:
        return RulesDecider()
    targets = load_targets(settings)
    for target in targets:
        if settings.model_budget_usd_per_day and target.price is None:
            raise SettingsError(
                f"MODEL_BUDGET_USD_PER_DAY: no price is known of {target.model}, so no budget can be kept"
            )
    # Each decision may have a hedge under way besides its call, and the end of an earlier reply.
    most = CONNECTIONS_PER_CALL * settings.max_concurrent_model_calls
    return RoutedDecider(
        [MessagesClient(target, max_connections=most) for target in targets],
        draw=random.random,
        options=RoutingOptions(
            hedge_max_share=float(settings.model_hedge_max_share),
            breaker_failures=settings.model_breaker_failures,
            breaker_cool_down_s=float(settings.model_breaker_cool_down_s),
            warm_every_s=settings.model_warm_every_s,
        ),
        last_resort=RulesDecider() if settings.model_last_resort is LastResort.RULES else None,
        on_warm=on_warm,
    )


def warnings(settings: Settings) -> tuple[str, ...]:
    """List what the operator should know; it is said at the start and in /readyz."""
    policy = settings.policy()
    found = {
        "AUTH=off: whoever reaches this host decides, without a key": settings.auth is Auth.OFF,
        "MAX_SNAPSHOT_AGE_S=0: snapshots of any age are judged": policy.max_snapshot_age_s == 0,
        "LIVE_ALLOWED=true: orders may move real money": policy.live_allowed,
        "REQUIRE_LIVE_CONFIRM=false: live entries need no person's confirmation": not policy.require_live_confirm,
    }
    return tuple(warning for warning, applies in found.items() if applies)


class _Service(FastAPI):
    """Answer as the framework does, but decisions past it (see `app.api.decide`)."""

    decisions: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if decide.is_decision(scope):
            await self.decisions(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings, *, decider: Decider | None = None) -> FastAPI:
    """Make the app; it starts without its database and recovers with it.

    Raises:
        SettingsError: it cannot be made from the settings.
    """
    composition = compose(settings, decider=decider)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Runtime | Site]]:
        async with composition.open() as runtime:
            watches = [
                asyncio.create_task(watch)
                for watch in (
                    watch_fills(runtime.pool, runtime.metrics),
                    watch_store(runtime.pool, runtime.metrics),
                    watch_spending(runtime.pool, runtime.metrics, budget_usd=settings.model_budget_usd_per_day),
                    follow_calibration(runtime.standings, runtime.metrics),
                    write_calibration(composition.database_url, settings),
                    runtime.paper_desk.work(),
                    *composition.target_watches(runtime.pool),
                )
            ]
            try:
                yield {"runtime": runtime, "site": composition.site(runtime.pool)}
            finally:
                for watch in watches:
                    watch.cancel()
                await runtime.service.close()
                await asyncio.wait(watches)

    app = _Service(
        title="TradeVerdict",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
        telemetry=FRAMEWORK_TELEMETRY,
    )
    for resource in (
        decide,
        export,  # before decisions, which take what follows for an id
        decisions,
        whatif,
        prompts,
        events,
        outcomes,
        bars,
        calibration,
        setups,
        gates,
        costs,
        exposure,
        halt,
        health,
    ):
        app.include_router(resource.router)
    app.include_router(pages)
    install_error_handlers(app)
    install_openapi(app)
    around_requests: dict[str, Any] = {
        "metrics": composition.metrics,
        "tracing": composition.tracing,
        "local_only": settings.auth is Auth.OFF,
    }
    app.add_middleware(RequestMiddleware, **around_requests)
    app.decisions = RequestMiddleware(decide.answer, **around_requests)
    return app
