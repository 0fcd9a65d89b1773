"""Carry the SDK's requests over aiohttp: the same requests, for a quarter of the processor time.

An HTTP client of httpx2 passes each request through what redirects, cookies, authentication flows and hooks need. A
call of a model has none of these, so this one hands what the SDK built straight to aiohttp, and gives back what came
as the response that the SDK expects, with the errors that httpx2 would have raised.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
import httpx2
from yarl import URL

ENCODINGS: Final = "gzip, deflate"
"""What a response may be compressed with: httpx2 undoes these without further packages."""
OURS_TO_SET: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers that aiohttp would add by itself."""

# The first that fits is raised; a class stands before those that it is a kind of.
_ERRORS: Final[tuple[tuple[type[Exception], type[httpx2.TransportError]], ...]] = (
    (aiohttp.ConnectionTimeoutError, httpx2.ConnectTimeout),
    (aiohttp.ServerTimeoutError, httpx2.ReadTimeout),
    (aiohttp.ClientConnectorError, httpx2.ConnectError),
    (aiohttp.ServerDisconnectedError, httpx2.RemoteProtocolError),
    (aiohttp.ClientConnectionError, httpx2.ReadError),
    (aiohttp.ClientPayloadError, httpx2.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx2.RemoteProtocolError),
    (aiohttp.InvalidURL, httpx2.UnsupportedProtocol),
    (OSError, httpx2.ReadError),
)


class LeanHttpClient(httpx2.AsyncClient):
    """Send what the SDK builds, as it is: no redirects, no cookies, no proxies, no hooks.

    Idle connections are kept for `keepalive_s`. Certificates are checked as httpx2 checks them.
    """

    def __init__(self, *, max_connections: int, keepalive_s: float) -> None:
        super().__init__(follow_redirects=False, trust_env=False, transport=_Unused())
        self._max_connections = max_connections
        self._keepalive_s = keepalive_s
        self._tls = httpx2.create_ssl_context()
        self._session: aiohttp.ClientSession | None = None

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
        limits, body = request.extensions["timeout"], request.stream
        with _errors_of(request):
            answer = await self._open_session().request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=_headers(request),
                data=body.content if isinstance(body, _Body) else await request.aread(),
                allow_redirects=False,
                skip_auto_headers=OURS_TO_SET,
                timeout=aiohttp.ClientTimeout(connect=limits.pool, sock_connect=limits.connect, sock_read=limits.read),
            )
        response = httpx2.Response(
            answer.status, headers=answer.raw_headers, stream=_Answered(answer, request=request), request=request
        )
        if not stream:
            await response.aread()
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
        await super().aclose()

    def _open_session(self) -> aiohttp.ClientSession:
        # Made when it is first needed, for it belongs to the loop that runs then.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections, keepalive_timeout=self._keepalive_s, ssl=self._tls
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(),
            )
        return self._session


class _Unused(httpx2.AsyncBaseTransport):
    """Stand where httpx2 would open its own connections."""


class _Body(httpx2.ByteStream):
    """Hold a body that is sent in one piece."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.content = content


class _Answered(httpx2.AsyncByteStream):
    """Read a response as it comes."""

    def __init__(self, answer: aiohttp.ClientResponse, *, request: httpx2.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors_of(self._request):
            async for chunk in self._answer.content.iter_any():
                yield chunk

    async def aclose(self) -> None:
        # What was read to its end has given its connection back already; any other is of no use any more.
        self._answer.close()


def _headers(request: httpx2.Request) -> list[tuple[str, str]]:
    sent = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers.raw]
    sent.append(("Accept-Encoding", ENCODINGS))
    return sent


@contextmanager
def _errors_of(request: httpx2.Request) -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError:
        raise
    except Exception as error:
        for ours, theirs in _ERRORS:
            if isinstance(error, ours):
                raise theirs(str(error), request=request) from error
        raise
