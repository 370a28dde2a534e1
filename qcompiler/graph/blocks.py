"""The blocks that a network is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcompiler.graph.base import Op

if TYPE_CHECKING:
    from qcompiler.graph.graph import Graph


def blocks(graph: Graph) -> tuple[tuple[Op, ...], ...]:
    """Ops between values that all data has to go through, such as the sums of residual networks.

    They are the biconnected components of what is computed from the graph's first input (a mask,
    which all blocks read, would connect them): removing one value cuts none in two.  Their common
    values are the articulation points, each of which counts to the block that it ends; ops in a row
    that no branch goes around are in none.

    Args:
        graph: Of any language.

    Returns:
        Blocks in the order of the graph, the ops of each likewise.
    """
    if not graph.inputs:
        return ()
    import networkx as nx  # takes 20 MiB and longer than loading a library

    whole, start = graph.to_networkx(), graph.inputs[0]
    computed = whole.subgraph({start, *nx.descendants(whole, start)}).to_undirected()
    places = {node: i for i, node in enumerate(graph.ops)}
    found = [
        tuple(sorted(part, key=places.__getitem__)[1:])  # the first ends the block in front
        for part in nx.biconnected_components(computed)
        if len(part) > 2
    ]
    return tuple(sorted(found, key=lambda block: places[block[0]]))
