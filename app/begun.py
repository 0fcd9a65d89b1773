"""Begin to wait for something, and do other work until it is there.

A task would do that too, but begins only when its maker waits for something itself, and costs as much as a short
statement's round trip. This one is no task: it runs within the one that awaits it.
"""

from asyncio import CancelledError, Future
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

Result = TypeVar("Result")


class Begun(Generic[Result]):
    """Run a coroutine up to the first thing that it waits for; awaiting this waits, and runs the rest.

    Its block cancels the coroutine if it was not awaited to its end. What the coroutine raises is raised to who awaits
    it, but while it begins to who begins it.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Result]) -> None:
        self._coroutine = coroutine
        self._ended: list[Result] = []
        self._failed = False
        self._waits_for: Any = None
        self._step(coroutine.send, None)

    @property
    def ended(self) -> bool:
        """Tell whether it had nothing to wait for."""
        return bool(self._ended)

    def __await__(self) -> Generator[Any, Any, Result]:
        while not self._ended:
            try:
                came = yield self._waits_for
            except BaseException as error:  # noqa: BLE001 (a cancellation too is for the coroutine to know)
                self._step(self._coroutine.throw, error)
            else:
                self._step(self._coroutine.send, came)
        return self._ended[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ended or self._failed:
            return
        # As a task is cancelled: first what it waits for, which then tidies up after itself, then it itself.
        try:
            if isinstance(self._waits_for, Future):
                self._waits_for.cancel()
            with suppress(CancelledError):
                self._step(self._coroutine.throw, CancelledError())
        finally:
            self._coroutine.close()

    def _step(self, step: Callable[[Any], Any], what: object) -> None:
        try:
            self._waits_for = step(what)
        except StopIteration as end:
            self._ended.append(end.value)
        except BaseException:
            self._failed = True
            raise
