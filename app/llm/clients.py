"""Make the SDK's client of a target: no retries, no redirects, connections that outlive idle gaps.

The SDK is imported when a client is made: its import takes seconds, and `rules` does not need it.
"""

from typing import TYPE_CHECKING, Any, Final
from urllib.request import getproxies

from app.llm.targets import AuthHeader, Target, TargetKind

if TYPE_CHECKING:
    import anthropic
    import httpx2

    Client = anthropic.AsyncAnthropic | anthropic.AsyncAnthropicBedrock | anthropic.AsyncAnthropicVertex

ANTHROPIC_URL: Final = "https://api.anthropic.com"
"""Said outright: the SDK would take ANTHROPIC_BASE_URL for every target, whosever key it has."""
KEEPALIVE_S: Final = 330.0
"""An idle connection is kept this long, which is more than the pause between two warming calls.

The default of 5 s would cost sparse callers a handshake each time.
"""
PLACEHOLDER: Final = "none"
MESSAGES_PATH: Final = "/v1/messages"
PROXIED: Final = ("http", "https", "all")


def make_http_client(*, max_connections: int) -> "httpx2.AsyncClient":
    """Make the HTTP client under an SDK client: the lean one, or where the environment names a proxy the SDK's own."""
    import anthropic  # noqa: PLC0415 (takes seconds; only deciders that ask a model need it)
    import httpx2  # noqa: PLC0415

    if not any(getproxies().get(name) for name in PROXIED):
        from app.llm.transport import LeanHttpClient  # noqa: PLC0415

        return LeanHttpClient(max_connections=max_connections, keepalive_s=KEEPALIVE_S)
    return anthropic.DefaultAsyncHttpxClient(
        # A redirect would carry the snapshot to a host nobody configured.
        follow_redirects=False,
        limits=httpx2.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=KEEPALIVE_S
        ),
    )


def messages_address(client: "Client") -> Any:
    """Give the address of the Messages API below a client's, parsed once rather than for each call.

    The platforms' clients put the address together themselves, of the path and what is asked.
    """
    import anthropic  # noqa: PLC0415
    import httpx2  # noqa: PLC0415

    if not isinstance(client, anthropic.AsyncAnthropic):
        return MESSAGES_PATH
    return httpx2.URL(str(client.base_url).rstrip("/") + MESSAGES_PATH)


def make_client(target: Target, *, http_client: "httpx2.AsyncClient") -> "Client":
    """Make the client of a target."""
    import anthropic  # noqa: PLC0415

    key = None if target.key is None else target.key.reveal()
    options: dict[str, Any] = {
        "base_url": target.base_url,
        "max_retries": 0,
        "open_telemetry": False,
        "http_client": http_client,
        "default_headers": _headers(target),
    }
    if target.kind is TargetKind.BEDROCK:
        return anthropic.AsyncAnthropicBedrock(api_key=key, aws_region=target.region, **options)
    if target.kind is TargetKind.VERTEX:
        options |= {"region": target.region, "project_id": target.project, "access_token": key}
        return anthropic.AsyncAnthropicVertex(**options)
    options["base_url"] = target.base_url or ANTHROPIC_URL
    # Without an explicit key the SDK would look for Anthropic's own in the environment, and send that.
    return anthropic.AsyncAnthropic(api_key=key or PLACEHOLDER, **options)


def _headers(target: Target) -> dict[str, Any]:
    import anthropic  # noqa: PLC0415

    headers: dict[str, Any] = {}
    if target.version is not None:
        headers["anthropic-version"] = target.version
    if target.kind in (TargetKind.BEDROCK, TargetKind.VERTEX):
        return headers
    if target.auth is AuthHeader.X_API_KEY and target.key is not None:
        headers["x-api-key"] = target.key.reveal()
    if target.auth is AuthHeader.X_API_KEY or target.key is None:
        headers["Authorization"] = anthropic.Omit()
    return headers
