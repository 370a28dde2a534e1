"""The command line: one module per command; importing it imports no part of the compiler."""

from qcompiler.cli.app import app, main

__all__ = ["app", "main"]
