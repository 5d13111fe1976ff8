"""The loggers of this package, which tell where an error was, and little of its text.

What an error says that Python or a library has raised is made of values: a driver's has
the statement's, that of ``int(text)`` the text, that of a dict the missing key. In a
log it would outlive the row, and be read by others than may join the room. So
tracebacks have files, lines, code and types; texts only where somebody has written
them: in this package, or in a ``raise`` of the application's own files.
"""

from __future__ import annotations

import dis
import logging
import os
import sysconfig
from types import TracebackType
from typing import Literal

from .errors import BrokerError, ConfigError

#: Whose texts are logged.
Texts = Literal["all", "own", "none"]

_LEFT_OUT = "(what it says is left out of logs; see LIVEPUSH_LOG_ERROR_TEXTS)"
# How far causes of causes are followed.
_MAX_CAUSES = 20
_LIBRARIES = tuple(
    {
        path + os.sep
        for name in ("purelib", "platlib", "stdlib", "platstdlib")
        if (path := sysconfig.get_path(name)) is not None
    }
)


class _Quiet(Exception):
    """In place of an error of another class, whose name its own class has."""


class _Filter(logging.Filter):
    """Puts other errors, without texts, in the place of those that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: Texts = "own"

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if (
            self.texts != "all"
            and record.exc_info
            and record.exc_info[1] is not None
            and not isinstance(record.exc_info[1], _Quiet)
        ):
            quiet = quietened(record.exc_info[1], self.texts)
            record.exc_info = (type(quiet), quiet, quiet.__traceback__)
        return True


_filter = _Filter()


def logger(name: str) -> logging.Logger:
    """Return a logger of this package; each module has one, of its own name."""
    found = logging.getLogger(name)
    found.addFilter(_filter)  # once, however often
    return found


def show_texts(texts: Texts) -> None:
    """Say whose errors' texts are logged, for this process."""
    _filter.texts = texts


def quietened(error: BaseException, texts: Texts, depth: int = 0) -> BaseException:
    """Return what a traceback of an error is printed of, without what it must not say.

    Args:
        texts: Whose may be in it.
    """
    quiet: BaseException = _class_like(type(error))(_text_of(error, texts))
    quiet.__traceback__ = error.__traceback__
    if depth < _MAX_CAUSES:
        if error.__cause__ is not None:
            quiet.__cause__ = quietened(error.__cause__, texts, depth + 1)
        elif error.__context__ is not None and not error.__suppress_context__:
            quiet.__context__ = quietened(error.__context__, texts, depth + 1)
    quiet.__suppress_context__ = error.__suppress_context__
    return quiet


def _text_of(error: BaseException, texts: Texts) -> str:
    if isinstance(error, (BrokerError, ConfigError)):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"[Errno {error.errno}] {os.strerror(error.errno)}"
    if texts != "none" and _is_written(error.__traceback__):
        return str(error)
    return _LEFT_OUT if str(error) else ""


def _is_written(traceback: TracebackType | None) -> bool:
    """Say whether an error comes of a ``raise`` in a file of no library."""
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    file = os.path.abspath(code.co_filename)
    if file.startswith(_LIBRARIES):
        return False
    at = traceback.tb_lasti
    return 0 <= at < len(code.co_code) and (
        dis.opname[code.co_code[at]] == "RAISE_VARARGS"
    )


def _class_like(cls: type[BaseException]) -> type[_Quiet]:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (_Quiet,), names)
