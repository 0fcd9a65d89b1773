"""Make the SDK's client of a target: no retries, no redirects, connections that outlive idle gaps.

The SDK is imported when a client is made: its import takes seconds, and `rules` does not need it.
"""

from typing import TYPE_CHECKING, Any, Final
from urllib.request import getproxies

import orjson

from app.llm.targets import AuthHeader, Target, TargetKind

if TYPE_CHECKING:
    import anthropic
    import httpx2

    from app.llm.transport import WrittenOnce

    Client = anthropic.AsyncAnthropic | anthropic.AsyncAnthropicBedrock | anthropic.AsyncAnthropicVertex

ANTHROPIC_URL: Final = "https://api.anthropic.com"
"""Said outright: the SDK would take ANTHROPIC_BASE_URL for every target, whosever key it has."""
KEEPALIVE_S: Final = 330.0
"""An idle connection is kept this long, which is more than the pause between two warming calls.

The default of 5 s would cost sparse callers a handshake each time.
"""
PLACEHOLDER: Final = "none"
PLATFORMS: Final = frozenset({TargetKind.BEDROCK, TargetKind.VERTEX})
MESSAGES_PATH: Final = "/v1/messages"
PROXIED: Final = ("http", "https", "all")
MAX_ERROR_BYTES: Final = 256 * 1024
"""What is read of a body that explains an error status; a real one has a line or two."""


class Line:
    """Reach one target through the SDK: bytes go out under its words, and a response comes back, still to be read."""

    def __init__(self, target: Target, *, max_connections: int) -> None:
        import anthropic  # noqa: PLC0415 (takes seconds; only deciders that ask a model need it)
        import httpx2  # noqa: PLC0415

        self._target = target
        self._sdk = anthropic
        self._response = httpx2.Response
        self._form: dict[str, Any] = {
            "cast_to": httpx2.Response,
            "stream": True,
            "stream_cls": anthropic.AsyncStream[Any],
        }
        self.http_client = make_http_client(max_connections=max_connections)
        self._once = _written_once(target, self.http_client)
        self.client = make_client(target, http_client=self.http_client, middleware=self._once)

    async def send(self, body: bytes, *, headers: dict[str, str], limits: "httpx2.Timeout") -> "httpx2.Response":
        """Send a body; give the response, which is to be closed.

        Raises:
            anthropic.AnthropicError: it could not be sent, or the status says that it was refused.
        """
        form, once = self._form, self._once
        if once is not None and once.options is not None:
            options = once.options.model_copy(update={"content": body, "headers": headers, "timeout": limits})
            response = await self.client.request(options=options, **form)
        else:
            # The platforms' clients rewrite what is asked, and may sign what they wrote.
            written: dict[str, Any] = (
                {"body": orjson.loads(body)} if self._target.kind in PLATFORMS else {"content": body}
            )
            written["options"] = {"headers": headers, "timeout": limits}
            response = await self.client.post(MESSAGES_PATH, **written, **form)
        if not response.is_success:
            raise status_error(await self._beginning(response))
        return response  # type: ignore[no-any-return]

    async def _beginning(self, response: "httpx2.Response") -> "httpx2.Response":
        """Read a response as far as it may explain an error, and close it."""
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ERROR_BYTES:
                    break
        finally:
            await response.aclose()
        # What is kept is not compressed any more.
        headers = [header for header in response.headers.multi_items() if header[0] != "content-encoding"]
        return self._response(
            response.status_code, headers=headers, content=bytes(body[:MAX_ERROR_BYTES]), request=response.request
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()


def status_error(response: "httpx2.Response") -> "anthropic.APIStatusError":
    """Make the SDK's error of a response that was read and whose status says that it is none."""
    import anthropic  # noqa: PLC0415

    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        body = None
    return anthropic.APIStatusError(f"status {response.status_code}", response=response, body=body)


def make_http_client(*, max_connections: int) -> "httpx2.AsyncClient":
    """Make the HTTP client under an SDK client: the lean one, or where the environment names a proxy the SDK's own."""
    import anthropic  # noqa: PLC0415
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


def _written_once(target: Target, http_client: "httpx2.AsyncClient") -> "WrittenOnce | None":
    """Make what spares the SDK writing each request anew, for targets whose requests differ in nothing but the body."""
    from app.llm.transport import LeanHttpClient, WrittenOnce  # noqa: PLC0415

    if target.kind in PLATFORMS or not isinstance(http_client, LeanHttpClient):
        return None
    return WrittenOnce(http_client)


def make_client(
    target: Target, *, http_client: "httpx2.AsyncClient", middleware: "anthropic.Middleware | None" = None
) -> "Client":
    """Make the client of a target."""
    import anthropic  # noqa: PLC0415

    key = None if target.key is None else target.key.reveal()
    options: dict[str, Any] = {
        "base_url": target.base_url,
        "max_retries": 0,
        "open_telemetry": False,
        "http_client": http_client,
        "default_headers": _headers(target),
        "middleware": [] if middleware is None else [middleware],
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
    if target.kind in PLATFORMS:
        return headers
    if target.auth is AuthHeader.X_API_KEY and target.key is not None:
        headers["x-api-key"] = target.key.reveal()
    if target.auth is AuthHeader.X_API_KEY or target.key is None:
        headers["Authorization"] = anthropic.Omit()
    return headers
