"""What can go wrong in a user's hands, one class and one exit code per kind.

Every message is one line: it names the offender (a file, a node, an option), says what was expected
and what to do about it.  Anything that is not a `QcompilerError` is a defect of qcompiler itself.
"""

from typing import ClassVar


class QcompilerError(Exception):
    """Base of all errors that a user can cause and mend.

    Attributes:
        exit_code: What the command line exits with; documented in the README.
    """

    exit_code: ClassVar[int] = 1


class UsageError(QcompilerError):
    """An option or argument that does not exist or does not fit (exit code 2)."""

    exit_code = 2


class FileError(QcompilerError):
    """A file that is missing, unreadable or of another kind than expected (exit code 3)."""

    exit_code = 3


class ModelError(QcompilerError):
    """A model that is damaged or contradicts itself (exit code 4)."""

    exit_code = 4


class UnsupportedError(QcompilerError):
    """A valid model that uses what qcompiler does not implement (exit code 5)."""

    exit_code = 5


class ShapeError(QcompilerError):
    """A dimension that is unknown, or shapes that do not fit together (exit code 6)."""

    exit_code = 6


class CalibrationError(QcompilerError):
    """Calibration data that is missing or does not fit the model's inputs (exit code 7)."""

    exit_code = 7


class TargetError(QcompilerError):
    """A target that does not exist or that this machine cannot serve (exit code 8)."""

    exit_code = 8


class OutputError(QcompilerError):
    """An output that cannot be written (exit code 9)."""

    exit_code = 9


class NotIntegerError(QcompilerError):
    """`--require-integer` and some operators had to stay in float (exit code 10)."""

    exit_code = 10


class ContractError(QcompilerError):
    """A pass met or left a graph that breaks one of its invariants (exit code 11)."""

    exit_code = 11


class TypingError(QcompilerError):
    """An op that cannot be built from its operands: names the op, what it expected, what it found.

    Exit code 12.
    """

    exit_code = 12


class UnprovedError(TypingError):
    """Integers that are not proved to keep to their types: sums over too many elements."""
