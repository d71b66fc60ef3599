"""Cells whose topology is a choice of its own: NAS-Bench-101 (operations on nodes) and DARTS (operations on chosen edges, two cells).

Both are read from text and written back, and become Networks as their authors' code builds them for CIFAR-10. Ying et al., 2019,
"NAS-Bench-101"; Liu et al., 2019, "DARTS".
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from edgenas.errors import InputError
from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network
from edgenas.spaces.operations import append, factorized_reduce

DARTS_OPERATIONS = (
    *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5"),
    *("dil_conv_3x3", "dil_conv_5x5"),
)
NODE_OPERATIONS = ("conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3")
_GENOTYPE_KEYS = ("normal", "normal_concat", "reduce", "reduce_concat")
Edges = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class NodeCell:
    """A NAS-Bench-101 cell. `matrix[i][j]` is 1 where node i feeds node j; node 0 is the input, the last one the output, and
    `operations` are those of the nodes between."""

    matrix: tuple[tuple[int, ...], ...]
    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.matrix)
        if n < 2 or any(len(row) != n for row in self.matrix) or len(self.operations) != n - 2:
            raise InputError(
                f"a cell of {n} nodes needs {n} rows of as many 0s and 1s, and an operation for each but the first and last"
            )
        if any(self.matrix[i][j] for i in range(n) for j in range(i + 1)):
            raise InputError("a node of the cell feeds itself or one before it", "List the nodes in running order.")
        if unknown := sorted(set(self.operations) - set(NODE_OPERATIONS)):
            raise InputError(f"there is no operation {unknown[0]!r}", f"Known: {', '.join(NODE_OPERATIONS)}.")

    @staticmethod
    def parse(text: str) -> NodeCell:
        """`0110/0001/0001/0000:conv3x3-bn-relu,maxpool3x3`: the rows of the matrix, then the operations."""
        rows, _, operations = text.strip().partition(":")
        if not rows or set(rows) - set("01/"):
            raise InputError(f"{text!r} is no cell: rows of 0 and 1, joined with /, were expected before the colon")
        matrix = tuple(tuple(int(bit) for bit in row) for row in rows.split("/"))
        return NodeCell(matrix, tuple(name.strip() for name in operations.split(",") if name.strip()))

    def text(self) -> str:
        return "/".join("".join(map(str, row)) for row in self.matrix) + ":" + ",".join(self.operations)

    def pruned(self) -> NodeCell:
        """Without the nodes that don't lie between input and output, as the benchmark builds it."""
        n = len(self.matrix)
        forward, backward = {0}, {n - 1}
        for i in range(n):
            if i in forward:
                forward.update(j for j in range(n) if self.matrix[i][j])
        for j in reversed(range(n)):
            if j in backward:
                backward.update(i for i in range(n) if self.matrix[i][j])
        kept = sorted(forward & backward)
        if 0 not in kept or n - 1 not in kept:
            raise InputError("the cell's input does not reach its output")
        return NodeCell(
            tuple(tuple(self.matrix[i][j] for j in kept) for i in kept),
            tuple(self.operations[i - 1] for i in kept[1:-1]),
        )

    def network(self, width: int = 128, stacks: int = 3, modules: int = 3, side_px: int = 32) -> Network:
        """`stacks` of `modules` cells; before each stack but the first the sides halve and the channels double."""
        cell = self.pruned()
        b = Builder((1, 3, side_px, side_px))
        x = append(b, "stem", "conv3x3-bn-relu", INPUT, width)
        for stack in range(stacks):
            if stack:
                x = b.max_pool(f"stack{stack}/pool", x, 2, 2)
            for module in range(modules):
                x = cell._module(b, f"stack{stack}/module{module}", x, width * 2**stack)
        x = b.flatten("head/flatten", b.global_average_pool("head/pool", x))
        return b.finish(b.linear("head/linear", x, 10))

    def _module(self, b: Builder, name: str, x: str, channels: int) -> str:
        widths, last = self._widths(b.shape(x)[1], channels), len(self.matrix) - 1
        made = {0: x}
        for node in range(1, last):
            parts = [
                b.first_channels(f"{name}/slice{source}-{node}", made[source], widths[node])
                for source in range(1, node)
                if self.matrix[source][node]
            ]
            if self.matrix[0][node]:
                parts.append(append(b, f"{name}/project{node}", "conv1x1-bn-relu", x, widths[node]))
            total = _sum(b, f"{name}/node{node}", parts)
            made[node] = append(b, f"{name}/node{node}", self.operations[node - 1], total, widths[node])
        ends = [made[node] for node in range(1, last) if self.matrix[node][last]]
        out = [ends[0] if len(ends) == 1 else b.concat(f"{name}/concat", *ends)] if ends else []
        if self.matrix[0][last]:
            out.append(append(b, f"{name}/project{last}", "conv1x1-bn-relu", x, channels))
        return _sum(b, f"{name}/out", out)

    def _widths(self, inner: int, channels: int) -> list[int]:
        """Channels of each node: those that feed the output share its channels out; others have as many as what they feed."""
        last = len(self.matrix) - 1
        ends = [node for node in range(1, last) if self.matrix[node][last]]
        widths = [inner] + [0] * (last - 1) + [channels]
        for i, node in enumerate(ends):
            widths[node] = channels // len(ends) + (i < channels % len(ends))
        for node in reversed(range(1, last)):
            if node not in ends:
                widths[node] = max(widths[to] for to in range(node + 1, last) if self.matrix[node][to])
        return widths


@dataclass(frozen=True)
class Genotype:
    """A DARTS cell and its reduction cell: two (operation, source) for each inner node. Sources 0 and 1 are the outputs of the last
    but one and of the last cell, 2 the first inner node; the nodes in `*_concat` are joined."""

    normal: Edges
    normal_concat: tuple[int, ...]
    reduce: Edges
    reduce_concat: tuple[int, ...]

    def __post_init__(self) -> None:
        for edges, concat in ((self.normal, self.normal_concat), (self.reduce, self.reduce_concat)):
            if not edges or len(edges) % 2 or not concat:
                raise InputError("a DARTS cell has two edges for each node, and joins at least one node")
            for i, (operation, source) in enumerate(edges):
                if operation not in DARTS_OPERATIONS:
                    raise InputError(f"there is no operation {operation!r}", f"Known: {', '.join(DARTS_OPERATIONS)}.")
                if not 0 <= source < 2 + i // 2:
                    raise InputError(f"edge {i + 1} reads node {source}, which is not before it")
            if not all(0 <= node < 2 + len(edges) // 2 for node in concat):
                raise InputError(f"the cell joins the nodes {concat}, but has {2 + len(edges) // 2}")

    @staticmethod
    def parse(text: str) -> Genotype:
        """As DARTS prints it: `Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), reduce=..., ...)`."""
        problem = f"{text[:60]!r} is no DARTS genotype"
        try:
            call = ast.parse(text.strip(), mode="eval").body
            if not isinstance(call, ast.Call):
                raise InputError(problem, "Genotype(normal=[...], ...) was expected.")
            values = {keyword.arg or "": _value(keyword.value) for keyword in call.keywords}
            edges = {
                key: tuple((str(operation), int(source)) for operation, source in values[key])
                for key in _GENOTYPE_KEYS[::2]
            }
            joined = {key: tuple(int(node) for node in values[key]) for key in _GENOTYPE_KEYS[1::2]}
        except (SyntaxError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{problem}: {error}", f"It needs {', '.join(_GENOTYPE_KEYS)}.") from error
        return Genotype(edges["normal"], joined["normal_concat"], edges["reduce"], joined["reduce_concat"])

    def text(self) -> str:
        return "Genotype(" + ", ".join(f"{key}={list(getattr(self, key))}" for key in _GENOTYPE_KEYS) + ")"

    def network(self, width: int = 36, cells: int = 20, side_px: int = 32, classes: int = 10) -> Network:
        """The CIFAR network of DARTS' evaluation: cells a third and two thirds of the way down halve the sides."""
        b = Builder((1, 3, side_px, side_px))
        before = last = b.conv("stem/conv", INPUT, 3 * width, 3)
        halved = False
        for i in range(cells):
            halves = i in (cells // 3, 2 * cells // 3)
            width *= 2 if halves else 1
            name = f"cell{i}"
            old = _fitted(b, f"{name}/before", before, width, halved)
            new = _fitted(b, f"{name}/last", last, width, False)
            before, last = last, self._cell(b, name, [old, new], width, halves)
            halved = halves
        x = b.flatten("head/flatten", b.global_average_pool("head/pool", last))
        return b.finish(b.linear("head/linear", x, classes))

    def _cell(self, b: Builder, name: str, nodes: list[str], width: int, halves: bool) -> str:
        edges, concat = (self.reduce, self.reduce_concat) if halves else (self.normal, self.normal_concat)
        for node in range(2, 2 + len(edges) // 2):
            made = []
            for i, (operation, source) in enumerate(edges[2 * node - 4 : 2 * node - 2]):
                stride = 2 if halves and source < 2 else 1
                made.append(append(b, f"{name}/node{node}/edge{i}", operation, nodes[source], width, stride))
            nodes.append(b.add(f"{name}/node{node}/add", *made))
        return b.concat(f"{name}/concat", *(nodes[node] for node in concat))


def _value(node: ast.expr) -> Any:
    """A literal, or `range(a, b)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        return range(*(ast.literal_eval(argument) for argument in node.args))
    return ast.literal_eval(node)


def _sum(b: Builder, name: str, parts: list[str]) -> str:
    total = parts[0]
    for i, other in enumerate(parts[1:], start=1):
        total = b.add(f"{name}/add{i}", total, other)
    return total


def _fitted(b: Builder, name: str, x: str, width: int, halve: bool) -> str:
    if halve:
        return factorized_reduce(b, name, x, width)
    return b.conv(f"{name}/conv", b.activation(f"{name}/relu", x), width)


DARTS = Genotype(
    normal=(
        *(("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        *(("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2)),
    ),
    normal_concat=(2, 3, 4, 5),
    reduce=(
        *(("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1)),
        *(("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1)),
    ),
    reduce_concat=(2, 3, 4, 5),
)
"""The cell that the paper's second-order search found (DARTS_V2)."""
