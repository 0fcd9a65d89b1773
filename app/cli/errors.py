"""Name the ways in which a command can end."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Tell a calling program how a command ended."""

    DONE = 0
    DIFFERENT = 1
    BAD_INPUT = 2
    UNAVAILABLE = 3
    REFUSED = 4
    BROKEN = 5
    INTERRUPTED = 130


class CommandError(Exception):
    """End a command with one line for people and an exit code for programs."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code
