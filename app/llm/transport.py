"""Carry the SDK's requests over aiohttp: the same requests, for a fifth of the processor time.

An HTTP client of httpx2 passes each request through what redirects, cookies, authentication flows and hooks need. A
call of a model has none of these, so `LeanHttpClient` hands what the SDK built straight to aiohttp, and gives back what
came as the response that the SDK expects, with the errors that httpx2 would have raised.

What the SDK builds is the same for each call of a target, but for the body and what a call says of itself. So
`WrittenOnce`, a middleware of the SDK, lets it build the first request, and has later calls sent in the same words.
"""

import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import aiohttp
import anthropic
import httpx2
from yarl import URL

from app.tracing import REQUEST_ID_HEADER, TRACEPARENT_HEADER

ENCODINGS: Final = "gzip, deflate"
"""What a response may be compressed with: httpx2 undoes these without further packages."""
OF_ONE_CALL: Final = frozenset(
    {
        "x-stainless-timeout",
        "x-stainless-read-timeout",
        "x-stainless-retry-count",
        TRACEPARENT_HEADER,
        REQUEST_ID_HEADER,
    }
)
"""What the SDK and we say of one call, in lower case."""
OURS_TO_SET: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers that aiohttp would add by itself."""
PROBED_AFTER_S: Final = 60
"""A silent connection is probed this often, so that what stands between forgets none that is kept."""
LONGEST_HEADER: Final = 65_536

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
        response = await self.exchange(
            request,
            url=URL(str(request.url), encoded=True),
            headers=[*_texts(request.headers), ("Accept-Encoding", ENCODINGS)],
            body=request.stream.content if isinstance(request.stream, _Body) else await request.aread(),
            limits=request.extensions["timeout"],
        )
        if not stream:
            await response.aread()
        return response

    async def exchange(
        self,
        request: httpx2.Request,
        *,
        url: URL,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        limits: httpx2.Timeout,
    ) -> httpx2.Response:
        """Send a body under these headers; give the response, whose body is to be read or closed.

        `request` stands for what was sent in errors and in the response.

        Raises:
            httpx2.TransportError: it could not be sent, or not be answered in time.
        """
        try:
            answer = await self._open_session().request(
                request.method,
                url,
                headers=headers,
                data=body,
                allow_redirects=False,
                skip_auto_headers=OURS_TO_SET,
                timeout=_limits(limits),
            )
        except Exception as error:
            _raise_ours(error, request)
            raise
        return httpx2.Response(
            answer.status, headers=answer.raw_headers, stream=_Answered(answer, request=request), request=request
        )

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
                    limit=self._max_connections,
                    keepalive_timeout=self._keepalive_s,
                    ssl=self._tls,
                    socket_factory=_probed_socket,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                max_line_size=LONGEST_HEADER,
                max_field_size=LONGEST_HEADER,
                timeout=aiohttp.ClientTimeout(),
            )
        return self._session


class WrittenOnce(anthropic.Middleware):
    """Have the SDK write the first request, and send later ones in the same words, with their own body and headers.

    Only for a client that has one address and one key, and is always asked for the same. Whatever its status, the
    response is given back as it came. `options` are what the SDK made of the
    first call: a copy of them with another body, timeout and headers spares it making them anew.
    """

    def __init__(self, http_client: LeanHttpClient) -> None:
        self._http_client = http_client
        self._written: _Written | None = None
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
            self._written = _Written(response.request)
            return response
        try:
            return await self._http_client.exchange(
                written.request,
                url=written.url,
                headers=[*written.headers, *request.options.headers.items()],  # type: ignore[union-attr]
                body=request.options.content,  # type: ignore[arg-type]
                limits=request.options.timeout,  # type: ignore[arg-type]
            )
        except httpx2.TimeoutException as error:
            raise anthropic.APITimeoutError(request=written.request) from error
        except httpx2.HTTPError as error:
            raise anthropic.APIConnectionError(request=written.request) from error


class _Written:
    """Hold what one request of the SDK's says that is true of the next one too."""

    def __init__(self, request: httpx2.Request) -> None:
        self.request = request
        self.url = URL(str(request.url), encoded=True)
        same = [header for header in _texts(request.headers) if header[0].lower() not in OF_ONE_CALL]
        self.headers = (*same, ("Accept-Encoding", ENCODINGS))


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
        try:
            async for chunk in self._answer.content.iter_any():
                yield chunk
        except Exception as error:
            _raise_ours(error, self._request)
            raise

    async def aclose(self) -> None:
        # What was read to its end has given its connection back already; any other is of no use any more.
        self._answer.close()


def _limits(limits: httpx2.Timeout) -> aiohttp.ClientTimeout:
    """Write limits as aiohttp knows them; its `sock_connect` leaves out the search for the address, so both bound."""
    whole = min((limit for limit in (limits.pool, limits.connect) if limit is not None), default=None)
    return aiohttp.ClientTimeout(connect=whole, sock_connect=limits.connect, sock_read=limits.read)


def _probed_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Make a socket whose connection is probed while it is idle, as those of the SDK's own client are."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", PROBED_AFTER_S), ("TCP_KEEPINTVL", PROBED_AFTER_S), ("TCP_KEEPCNT", 5)):
        if hasattr(socket, name):  # not every system lets them be set
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _texts(headers: httpx2.Headers) -> list[tuple[str, str]]:
    return [(name.decode("ascii"), value.decode("latin-1")) for name, value in headers.raw]


def _raise_ours(error: Exception, request: httpx2.Request) -> None:
    """Raise the error that httpx2 has for one of aiohttp's; what is none of those is a bug, and stays what it is."""
    for theirs, ours in _ERRORS:
        if isinstance(error, theirs):
            raise ours(str(error), request=request) from error
