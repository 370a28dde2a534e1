"""Where exceptions, warnings and signals become lines on stderr and exit codes."""

from __future__ import annotations

import functools
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

import typer

from qcompiler.errors import QcompilerError

DEFECT = 70
"""Exit code of a defect of qcompiler itself (EX_SOFTWARE in sysexits.h)."""

SYSTEM = 74
"""Exit code when the operating system refuses: disk full, out of memory (EX_IOERR)."""

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
SHOW_TRACEBACK = 2
"""How many `-v` show tracebacks."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the process; everything on the way up may still clean up."""


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every way of failing turned into one line on stderr and an exit code.

    A command that takes `verbose` shows tracebacks from `-vv` on.  Interrupts (SIGINT, SIGTERM,
    SIGHUP) unwind the stack, so that temporary files go, and end in 128 + the signal's number.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        received: list[int] = []
        try:
            with _signals(received), _warnings():
                command(*args, **options)
                sys.stdout.flush()
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except BaseException as error:
            if options.get("verbose", 0) >= SHOW_TRACEBACK:
                traceback.print_exc()
            # Libraries and linkers fail in their own ways when a signal reaches them first.
            line, code = _interrupted(received[0]) if received else explained(error)
            typer.secho("qcompile: ", err=True, nl=False)
            typer.secho("error: ", err=True, nl=False, fg="red", bold=True)
            typer.echo(
                "; ".join([line, *map(printable, getattr(error, "__notes__", ()))]), err=True
            )
            raise typer.Exit(code) from None

    return run


def _interrupted(number: int) -> tuple[str, int]:
    return f"interrupted by {signal.Signals(number).name}", 128 + number


def explained(error: BaseException) -> tuple[str, int]:
    """One line about an error, and the exit code."""
    text = printable(str(error))
    match error:
        case QcompilerError():
            return text, error.exit_code
        case KeyboardInterrupt():
            return _interrupted(signal.SIGINT)
        case MemoryError():
            return "out of memory: use a smaller batch or a machine with more", SYSTEM
        case OSError(strerror=str(reason)):
            where = f"{error.filename}: " if error.filename else ""
            return printable(f"{where}{reason}: the operating system refused"), SYSTEM
        case Exception():
            what = f"{type(error).__name__}: {text}" if text else type(error).__name__
            return (
                f"this is a bug in qcompiler, please report it ({what}); "
                "run again with -vv for the traceback",
                DEFECT,
            )
    raise error


def printable(text: str) -> str:
    """The text in one line, without the control characters that names in files may hold."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


@contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """Signals raise `Interrupted`, unless the parent process had them ignored (nohup)."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise Interrupted(signal.Signals(number).name)

    previous = {}
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _warnings() -> Iterator[None]:
    """Every warning is shown once; that of missing calibration data cannot be overlooked."""
    shown: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = printable(str(message))
        if text in shown:
            return
        shown.add(text)
        if category.__name__ == "SyntheticCalibrationWarning":
            _panel(text)
        else:
            typer.secho("qcompile: ", err=True, nl=False)
            typer.secho("warning: ", err=True, nl=False, fg="yellow", bold=True)
            typer.echo(text, err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _panel(text: str) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    title = "[bold]WARNING: NO CALIBRATION DATA[/bold]"
    Console(stderr=True).print(Panel(Text(text), title=title, border_style="bold yellow"))
