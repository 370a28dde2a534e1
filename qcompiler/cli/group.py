"""The command group, whose default command is `compile`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

DEFAULT = "compile"


class DefaultGroup(TyperGroup):
    """A first argument that is no command and no option of the group begins a `compile`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command in front where none is named."""
        own = {name for p in self.get_params(ctx) for name in (*p.opts, *p.secondary_opts)}
        if args and args[0] not in self.commands and args[0].partition("=")[0] not in own:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)
