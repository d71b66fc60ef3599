"""Residual blocks that can be left out of a Network: what they add to is what then goes on (Veit et al., NeurIPS 2016)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from edgenas.network.graph import Network, Node

IDEMPOTENT = ("Relu", "Clip")  # twice is the same as once
# what may read a block's end: no runtime takes these into the kernel before the block when the block is gone
STARTS = ("Conv", "Gemm", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")


@dataclass(frozen=True)
class ResidualBlock:
    """Without its `members` (names of nodes), whatever reads the tensor `end` reads `entry`, which has the same shape."""

    entry: str
    end: str
    members: frozenset[str]


def residual_blocks(network: Network) -> tuple[ResidualBlock, ...]:
    """Those with an identity skip that nothing else looks into, in the order of their ends.

    Where an activation follows the sum, it goes as well, and has to be one that the entry has been through already.
    """
    found = (_block(network, node) for node in network.nodes if node.op == "Add" and len(node.inputs) == 2)
    return tuple(block for block in found if block is not None)


def without_blocks(network: Network, blocks: Collection[ResidualBlock]) -> Network:
    """The network with these left out; a block may lie inside another."""
    gone = frozenset[str]().union(*(block.members for block in blocks))
    instead = {block.end: block.entry for block in blocks}

    def source(tensor: str) -> str:
        while tensor in instead:
            tensor = instead[tensor]
        return tensor

    nodes = (replace(node, inputs=tuple(map(source, node.inputs))) for node in network.nodes if node.name not in gone)
    return Network(network.inputs, tuple(nodes), network.outputs)


def _block(network: Network, add: Node) -> ResidualBlock | None:
    for entry, branch in (add.inputs, add.inputs[::-1]):
        members = _between(network, entry, branch)
        if members is None or network.shape_of(entry) != add.shape:
            continue
        end, members = add, members | {add.name}
        after = network.sole_consumer(add.name)
        if after is not None and after.op in IDEMPOTENT and _is_again(network.by_name.get(entry), after):
            end, members = after, members | {after.name}
        readers = {network.by_name[name].op for name in network.consumers[end.name]}
        if end.name not in network.outputs and readers <= set(STARTS):
            return ResidualBlock(entry, end.name, frozenset(members))
    return None


def _is_again(before: Node | None, after: Node) -> bool:
    return before is not None and (before.op, before.attributes) == (after.op, after.attributes)


def _between(network: Network, entry: str, branch: str) -> set[str] | None:
    """The nodes from `entry` to `branch`, or None if the branch reads anything else or anything else reads from it."""
    found: set[str] = set()
    waiting = [branch]
    while waiting:
        name = waiting.pop()
        if name == entry or name in found:
            continue
        if name not in network.by_name:
            return None
        found.add(name)
        waiting += network.by_name[name].inputs
    inside = all(set(network.consumers[name]) <= found for name in found - {branch})
    read_once = branch in found and len(network.consumers[branch]) == 1
    return found if inside and read_once and not found & set(network.outputs) else None
