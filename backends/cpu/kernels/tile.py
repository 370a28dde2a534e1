"""Tiles: how many there are, where each lies, and where its pixels go in the output."""

import math
from dataclasses import dataclass

from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Expr

from .pack import packed_shapes
from .plan import Plan


@dataclass(frozen=True)
class Tile:
    """Where a register tile lies, as bound variables.

    Attributes:
        image: Of the batch.
        row: First output row.
        col: First output column.
        panel: Panel of output channels, counted over all groups.
        group: Its group.
        channel: First output channel, counted in the group.
    """

    image: Expr
    row: Expr
    col: Expr
    panel: Expr
    group: Expr
    channel: Expr


def tile_count(plan: Plan) -> int:
    """Tiles of the whole output, times panels: the iterations of the parallel loop."""
    n, oh, ow, _ = plan.conv.out_shape
    return n * -(-oh // plan.tile[0]) * -(-ow // plan.tile[1]) * plan.groups * plan.panels


def bind_tile(plan: Plan, index: Expr) -> Tile:
    """The tile of an iteration; the larger of weights and input is the one to be read once."""
    _, oh, ow, _ = plan.conv.out_shape
    rows, cols = plan.tile
    down, across = -(-oh // rows), -(-ow // cols)
    panels = plan.groups * plan.panels
    spatial = tile_count(plan) // panels
    if math.prod(packed_shapes(plan)[0]) > math.prod(plan.conv.x_shape):
        panel, pixel = T.bind(index // spatial), T.bind(index % spatial)
    else:
        panel, pixel = T.bind(index % panels), T.bind(index // panels)
    return Tile(
        image=T.bind(pixel // (down * across)),
        row=T.bind(T.min(pixel // across % down * rows, oh - rows)),
        col=T.bind(T.min(pixel % across * cols, ow - cols)),
        panel=panel,
        group=T.bind(panel // plan.panels),
        channel=T.bind(
            T.min(panel % plan.panels * plan.panel_lanes, plan.group_outputs - plan.panel_lanes)
        ),
    )


def out_place(plan: Plan, out: Expr, image: Expr, row: Expr, col: Expr) -> tuple[Expr, ...]:
    """Output index of a pixel; that of a product is spread over the axes it was flattened from."""
    shape = tuple(int(extent) for extent in out.shape)
    if shape == plan.conv.out_shape:
        return image, row, col
    place: list[Expr] = []
    pixels = plan.conv.out_shape[2]
    for extent in reversed(shape[:-1]):
        place.append(
            T.bind(col % extent) if 1 < extent < pixels else col if extent > 1 else T.int32(0)
        )
        col, pixels = T.bind(col // extent) if 1 < extent < pixels else col, pixels // extent
    return tuple(reversed(place))
