"""What there is to choose from: lists on stdout, and words for shell completion."""

from __future__ import annotations

import typer

from qcompiler.cli.boundary import guarded


def show_passes(value: bool) -> None:
    """Print every pass: name, what it preserves, summary."""
    if value:
        _print_passes()
        raise typer.Exit


def show_targets(value: bool) -> None:
    """Print every target."""
    if value:
        _print_targets()
        raise typer.Exit


@guarded
def _print_passes() -> None:
    from qcompiler.passes import known_passes

    for kind in known_passes():
        typer.echo(f"{kind.title():<24}preserves {kind.preserves:<9}{kind.summary()}")


@guarded
def _print_targets() -> None:
    for name in _targets():
        typer.echo(name)


def complete_target(incomplete: str) -> list[str]:
    """Targets that begin like this."""
    return [name for name in _targets() if name.startswith(incomplete)]


def complete_pass(incomplete: str) -> list[str]:
    """Passes that begin like this."""
    from qcompiler.passes import known_passes

    return [kind.title() for kind in known_passes() if kind.title().startswith(incomplete)]


def complete_method(incomplete: str) -> list[str]:
    """Calibration methods that begin like this."""
    from qcompiler.calibrate import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def _targets() -> list[str]:
    from importlib.metadata import entry_points

    from qcompiler.backends.targets import GROUP, TARGETS

    return [*TARGETS, *(entry.name for entry in entry_points(group=GROUP))]
