"""Keep clients that never finish their headers from holding the service: uvicorn waits for them for ever."""

from asyncio import BaseTransport, TimerHandle
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S: Final = 10.0
MAX_HEADER_BYTES: Final = 65_536


class PromptProtocol(HttpToolsProtocol):
    """Close a connection whose next request line and headers take too long or too many bytes.

    Between requests uvicorn's keep-alive time counts; while a body arrives, the reader of that body counts.
    """

    _header_timer: TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn names the transport it gets
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_are_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        awaited = self._header_timer
        super().data_received(data)
        if awaited is not None and self._header_timer is awaited:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_headers()

    def on_headers_complete(self) -> None:
        self._headers_are_here()
        super().on_headers_complete()

    def _expect_headers(self) -> None:
        if self._header_timer is None:
            self._header_bytes = 0
            self._header_timer = self.loop.call_later(HEADERS_S, self.transport.abort)

    def _headers_are_here(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
