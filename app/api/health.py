"""GET /healthz: the process lives. GET /readyz: it can decide. GET /metrics: what it did. All three are public."""

from fastapi import APIRouter, Request, Response

from app import __version__
from app.api.errors import ApiError, ErrorCode
from app.api.openapi import answers
from app.api.responses import HealthResponse, ReadyResponse
from app.api.runtime import runtime_of
from app.db.migrate import head_revision
from app.db.queries import schema_revision
from app.telemetry import METRICS_MEDIA_TYPE

router = APIRouter(tags=["operation"])


@router.get("/healthz", responses=answers({}))
async def healthz() -> HealthResponse:
    """Say that the process lives; nothing else is asked."""
    return HealthResponse()


@router.get("/readyz", responses=answers({}, ErrorCode.STORE_UNAVAILABLE, ErrorCode.MIGRATIONS_PENDING))
async def readyz(request: Request) -> ReadyResponse:
    """Say who decides, whether keys are needed, and what an operator should know; 503 while nothing can be decided."""
    runtime = runtime_of(request)
    revision = await schema_revision(runtime.pool)
    if revision != head_revision():
        raise ApiError(
            ErrorCode.MIGRATIONS_PENDING,
            f"The database is at revision {revision}, this program needs {head_revision()}: run tradeverdict migrate.",
        )
    settings = runtime.settings
    return ReadyResponse(
        version=__version__,
        decider=runtime.service.decider.name,
        model=settings.anthropic_model if settings.uses_anthropic else None,
        auth=settings.auth.value,
        policy_hash=runtime.policy.hash(),
        warnings=list(runtime.warnings),
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses=answers({"content": {METRICS_MEDIA_TYPE.partition(";")[0]: {"schema": {"type": "string"}}}}),
)
async def metrics(request: Request) -> Response:
    """Give this process's metrics in Prometheus's text format."""
    return Response(runtime_of(request).metrics.exposition(), media_type=METRICS_MEDIA_TYPE)
