"""Carry the SDK's requests over connections of our own: the same requests, for a fraction of the processor time.

An HTTP client of httpx2 passes each request through what redirects, cookies, authentication flows and hooks need. A
call of a model has none of these, so `LeanHttpClient` writes what the SDK built straight to a connection (http1), and
gives back what came as the response that the SDK expects, with the errors that httpx2 would have raised.

What the SDK builds is the same for each call of a target, but for the body and what a call says of itself. So
`WrittenOnce`, a middleware of the SDK, lets it build the first request, and has later calls sent in the same words.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import anthropic
import httpx2

from app.llm.http1 import WITHOUT_BODY, Body, Header, Origin, Pool, write_beginning, write_lines
from app.tracing import REQUEST_ID_HEADER, TRACEPARENT_HEADER

ENCODINGS: Final = (b"Accept-Encoding", b"gzip, deflate")
"""What a response may be compressed with: httpx2 undoes these without further packages."""
OF_ONE_CALL: Final = frozenset(
    name.encode()
    for name in (
        "x-stainless-timeout",
        "x-stainless-read-timeout",
        "x-stainless-retry-count",
        TRACEPARENT_HEADER,
        REQUEST_ID_HEADER,
    )
)
"""What the SDK and we say of one call, in lower case."""
ALPN: Final = ["http/1.1"]


class LeanHttpClient(httpx2.AsyncClient):
    """Send what the SDK builds, as it is: no redirects, no cookies, no proxies, no hooks.

    Idle connections are kept for `keepalive_s`. Certificates are checked as httpx2 checks them.
    """

    def __init__(self, *, max_connections: int, keepalive_s: float) -> None:
        super().__init__(follow_redirects=False, trust_env=False, transport=_Unused())
        self._max_connections = max_connections
        self._keepalive_s = keepalive_s
        self._tls = httpx2.create_ssl_context()
        self._tls.set_alpn_protocols(ALPN)
        self._pool: Pool | None = None

    def build_request(  # type: ignore[override]
        self,
        method: str,
        url: httpx2.URL | str,
        *,
        content: bytes | None = None,
        headers: httpx2.Headers | dict[str, str] | None = None,
        timeout: object = None,
        extensions: dict[str, Any] | None = None,
        **none_of_these: object,
    ) -> httpx2.Request:
        """Put a request together from what is given, and nothing else.

        Raises:
            TypeError: something is given that this client does not send.
        """
        if given := [name for name, value in none_of_these.items() if value]:
            raise TypeError(f"a lean client sends no {', '.join(given)}")
        limits = httpx2.Timeout(timeout) if isinstance(timeout, httpx2.Timeout | int | float) else self.timeout
        return httpx2.Request(
            method,
            url,
            headers=headers,
            stream=_Body(content or b""),
            extensions={"timeout": limits, **(extensions or {})},
        )

    async def send(self, request: httpx2.Request, *, stream: bool = False, **_: object) -> httpx2.Response:
        """Send a request; the body of the response is read only when `stream` is false.

        Raises:
            httpx2.TransportError: it could not be sent, or not be answered in time.
        """
        written = Written(request, headers=[*request.headers.raw, ENCODINGS])
        body = request.stream.content if isinstance(request.stream, _Body) else await request.aread()
        response = await self.exchange(written, body=body, limits=request.extensions["timeout"])
        if not stream:
            await response.aread()
        return response

    async def exchange(
        self, written: "Written", *, own: Mapping[str, str] | None = None, body: bytes, limits: httpx2.Timeout
    ) -> httpx2.Response:
        """Send a body in the words of a request; give the response, whose body is to be read or closed.

        `own` are headers of this call alone. The request that was written stands for what was sent in errors and in
        the response.

        Raises:
            httpx2.TransportError: it could not be sent, or not be answered in time.
        """
        pool = self._pool
        if pool is None:  # made when it is first needed, for it belongs to the loop that runs then
            pool = self._pool = Pool(
                max_connections=self._max_connections, keepalive_s=self._keepalive_s, tls=self._tls
            )
        request = written.request
        try:
            head = written.head(own, length=len(body))
            exchange = await pool.exchange(written.origin, head, body, limits=limits, headless=request.method == "HEAD")
        except httpx2.TransportError as error:
            error.request = request
            raise
        return _Response(
            exchange.status, headers=exchange.headers, stream=Body(exchange, request=request), request=request
        )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._pool is not None:
            await self._pool.aclose()
        await super().aclose()


class Written:
    """Hold a request as it is sent, all but the body and what a call says of itself.

    Raises:
        httpx2.TransportError: it is none that can be sent.
    """

    def __init__(self, request: httpx2.Request, *, headers: Iterable[Header]) -> None:
        self.request = request
        self.origin = Origin.of(request.url)
        self._beginning = write_beginning(request.method, request.url, headers)
        self._bare = request.method in WITHOUT_BODY

    def head(self, own: Mapping[str, str] | None, *, length: int) -> bytes:
        """Write the head of one call.

        Raises:
            httpx2.LocalProtocolError: a header would not be read as what it is.
        """
        lines = write_lines((name.encode(), value.encode()) for name, value in own.items()) if own else b""
        if length == 0 and self._bare:
            return b"%b%b\r\n" % (self._beginning, lines)
        return b"%b%bContent-Length: %d\r\n\r\n" % (self._beginning, lines, length)


class WrittenOnce(anthropic.Middleware):
    """Have the SDK write the first request, and send later ones in the same words, with their own body and headers.

    Only for a client that has one address and one key, and is always asked for the same. Whatever its status, the
    response is given back as it came. `options` are what the SDK made of the
    first call: a copy of them with another body, timeout and headers spares it making them anew.
    """

    def __init__(self, http_client: LeanHttpClient) -> None:
        self._http_client = http_client
        self._written: Written | None = None
        self.options: Any = None

    async def handle_async(self, request: anthropic.APIRequest, call_next: anthropic.AsyncCallNext) -> Any:
        """Send one request of the SDK's.

        Raises:
            anthropic.APIConnectionError: it could not be sent, or not be answered in time.
        """
        written = self._written
        if written is None:
            response: Any = await call_next(request)
            self.options = request.options
            self._written = _of_all_calls(response.request)
            return response
        try:
            return await self._http_client.exchange(
                written,
                own=request.options.headers,  # type: ignore[arg-type]
                body=request.options.content,  # type: ignore[arg-type]
                limits=request.options.timeout,  # type: ignore[arg-type]
            )
        except httpx2.TimeoutException as error:
            raise anthropic.APITimeoutError(request=written.request) from error
        except httpx2.HTTPError as error:
            raise anthropic.APIConnectionError(request=written.request) from error


class _Unused(httpx2.AsyncBaseTransport):
    """Stand where httpx2 would open its own connections."""


class _Response(httpx2.Response):
    """Close without a context for errors: those of a body know their request."""

    stream: Body

    async def aclose(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            await self.stream.aclose()


class _Body(httpx2.ByteStream):
    """Hold a body that is sent in one piece."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.content = content


def _of_all_calls(request: httpx2.Request) -> Written:
    """Write what one request of the SDK's says that is true of the next one too."""
    same = [header for header in request.headers.raw if header[0].lower() not in OF_ONE_CALL]
    return Written(request, headers=[*same, ENCODINGS])
