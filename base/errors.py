"""The errors a user can cause or meet; the command line prints their sentence and exits with their code."""

from __future__ import annotations

from typing import ClassVar


class RecsysError(Exception):
    """Something the user can mend; the message says what was found, what was expected, and how to mend it."""

    exit_code: ClassVar[int] = 1


class ConfigError(RecsysError):
    """A wrong configuration or usage: an unknown key, a value out of range, a name that does not exist."""

    exit_code: ClassVar[int] = 2


class DataError(RecsysError):
    """A file or table that is not what the schema says; names the file, the line or row, and the column."""


class RunError(RecsysError):
    """A run folder that is missing, incomplete, of another format version, or tampered with."""


class EndedWithOthersError(RecsysError):
    """One of several processes ends because another one failed, which has said why."""

    exit_code: ClassVar[int] = 75


class LostProcessError(RecsysError):
    """One of several processes is gone without a word: killed, or its machine."""

    exit_code: ClassVar[int] = 76
