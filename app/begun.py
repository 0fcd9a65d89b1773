"""Begin to wait for something, and do other work until it is there.

A task would do that too, but begins only when its maker waits for something itself, and costs as much as a short
statement's round trip. This one is no task: it runs within the one that awaits it.
"""

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

Result = TypeVar("Result")


class Begun(Generic[Result]):
    """Run a coroutine up to the first thing that it waits for; awaiting this waits, and runs the rest.

    Its block ends the coroutine if it was not awaited to its end. What the coroutine raises is raised to who awaits
    it, but while it begins to who begins it.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Result]) -> None:
        self._coroutine = coroutine
        self._ended: list[Result] = []
        self._waits_for: Any = None
        try:
            self._waits_for = coroutine.send(None)
        except StopIteration as end:
            self._ended.append(end.value)

    @property
    def ended(self) -> bool:
        """Tell whether it had nothing to wait for."""
        return bool(self._ended)

    def __await__(self) -> Generator[Any, Any, Result]:
        waits_for = self._waits_for
        while not self._ended:
            try:
                try:
                    came = yield waits_for
                except BaseException as error:  # noqa: BLE001 (a cancellation too is for the coroutine to know)
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(came)
            except StopIteration as end:
                self._ended.append(end.value)
        return self._ended[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._coroutine.close()
