"""Which genes stand for a cell: of all that come to the same graph one, and none whose input never reaches its output.

An edge of a cell is dead where it makes nothing (`none`), reads nothing, or is read by nothing that leads to the output; a skip is
another name for what it reads. Dong & Yang, "NAS-Bench-201" (ICLR 2020), whose code tells equal cells apart in a similar way.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

from edgenas.errors import InputError
from edgenas.spaces.operations import OPERATIONS, has_weights
from edgenas.spaces.space import Genome

MOST_NODES = 20  # of 190 edges: two operations make too many cells long before
MOST_CELLS = 100_000  # every one is looked at once, which takes a second or two
NONE, SKIP = "none", "skip_connect"
Edge = tuple[int, int]  # (target, source)


def edges_of(nodes: int) -> tuple[Edge, ...]:
    """The edge of each gene: by target, then by source, as in the architecture strings."""
    return tuple((target, source) for target in range(1, nodes) for source in range(target))


def refuse_what_makes_no_cell(nodes: int, operations: tuple[str, ...]) -> None:
    """Raises InputError for operations that there aren't, that make nothing, or of which there would be too many cells."""
    if unknown := sorted(set(operations) - set(OPERATIONS)):
        raise InputError(f"cells know no operation {unknown[0]!r}", f"Known: {', '.join(OPERATIONS)}.")
    if nodes < 2:
        raise InputError(f"a cell needs 2 nodes, its input and its output, but nodes is {nodes}")
    if not set(operations) - {NONE}:
        raise InputError(
            f"cells of the operations {list(operations)} compute nothing", f"Add one, such as {SKIP} or nor_conv_3x3."
        )
    if nodes > MOST_NODES or len(operations) ** len(edges_of(nodes)) > MOST_CELLS:
        raise InputError(
            f"cells of {nodes} nodes with {len(operations)} operations: "
            f"more than {MOST_CELLS:,} ways to choose, or than {MOST_NODES} nodes",
            "Take fewer operations or nodes: 4 nodes with 5 operations, as in NAS-Bench-201, are 15,625.",
        )


def alone(nodes: int, operations: tuple[str, ...], operation: str) -> Genome:
    """The cell of this operation on the edge from input to output and none on the others; on every edge where there is no `none`."""
    gene = operations.index(operation)
    rest = operations.index(NONE) if NONE in operations else gene
    return tuple(gene if edge == (nodes - 1, 0) else rest for edge in edges_of(nodes))


@lru_cache(maxsize=16)
def canonical_cells(nodes: int, operations: tuple[str, ...]) -> dict[Genome, Genome]:
    """All genes -> the first ones that come to the same cell, in an order that begins with dead edges. A cell whose input doesn't reach
    its output becomes the one that hands it on, or has the first operation alone where there is no skip."""
    order = sorted(range(len(operations)), key=lambda gene: operations[gene] != NONE)
    repaired = alone(nodes, operations, SKIP if SKIP in operations else next(o for o in operations if o != NONE))
    known: dict[tuple[str, int], Genome] = {}
    found: dict[Genome, Genome] = {}
    for genome in itertools.product(order, repeat=len(edges_of(nodes))):
        form = form_of(nodes, [operations[gene] for gene in genome])
        found[genome] = repaired if form is None else known.setdefault(form, genome)
    return found


def form_of(nodes: int, operations: Sequence[str]) -> tuple[str, int] | None:
    """What a cell with these operations computes, as text that doesn't depend on the order of its branches, and how many of them have
    weights: one that is read twice isn't the same as two alike. None where the input doesn't reach the output."""
    on = dict(zip(edges_of(nodes), operations, strict=True))
    sums: list[tuple[str, ...]] = [("x",)]  # each node's terms; none where nothing arrives
    for target in range(1, nodes):
        terms: list[str] = []
        for source in range(target):
            operation, value = on[target, source], sums[source]
            if operation == SKIP:
                terms += value
            elif operation != NONE and value:
                terms.append(f"{operation}({' + '.join(value)})")
        sums.append(tuple(sorted(terms)))
    if not sums[-1]:
        return None
    read = {nodes - 1}  # the nodes that lead to the output
    weighted = 0
    for target, source in reversed(edges_of(nodes)):
        if target in read and on[target, source] != NONE and sums[source]:
            read.add(source)
            weighted += has_weights(on[target, source])
    return " + ".join(sums[-1]), weighted
