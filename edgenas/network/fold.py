"""What every inference runtime computes once, when it loads a model: a scale or a shift after a convolution goes into its weights."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from edgenas.network.graph import Network, Node, Shape


def fold(network: Network) -> Network:
    """The network without normalisations, scales and biases that a convolution or a matrix product takes into its weights, and
    without padding that a convolution takes into its own. The convolution is then called after the last of them."""
    folded: dict[str, Node] = {}  # name of the last node folded -> the convolution with that name
    gone: set[str] = set()
    for node in network.nodes:
        if node.name in gone:
            continue
        made = _padded(network, node)
        while (after := network.sole_consumer(made.name)) is not None and _folds(made, after):
            gone.add(after.name)
            made = replace(made, name=after.name)
        folded[made.name] = made
        if node.op == "Conv" and node.inputs != made.inputs:
            gone.add(node.inputs[0])
            folded.pop(node.inputs[0], None)
    return Network(network.inputs, tuple(folded.values()), network.outputs)


def _folds(node: Node, after: Node) -> bool:
    if len(after.inputs) != 1:
        return False
    constants: tuple[Shape, ...] = dict(after.attributes).get("constants", ())
    if node.op in ("Conv", "ConvTranspose") and after.op == "BatchNormalization":
        return True
    if node.op == "Conv" and after.op in ("Mul", "Add"):
        return all(prod(shape) == node.shape[1] and _is_per_channel(shape, len(node.shape)) for shape in constants)
    if node.op in ("Gemm", "MatMul") and after.op == "Add":
        return all(prod(shape) == node.shape[-1] == shape[-1] for shape in constants)
    return False


def _is_per_channel(shape: Shape, rank: int) -> bool:
    aligned = (1,) * (rank - len(shape)) + shape
    return prod(aligned[2:]) == 1


def _padded(network: Network, node: Node) -> Node:
    """A convolution that reads what a Pad of zeros alone made for it, with that padding as its own."""
    source = network.by_name.get(node.inputs[0]) if node.inputs else None
    if node.op != "Conv" or source is None or source.op != "Pad" or network.sole_consumer(source.name) is not node:
        return node
    inner, outer = network.shape_of(source.inputs[0]), source.shape
    pads = dict(source.attributes).get("pads")
    if pads is None or inner[:2] != outer[:2]:
        return node
    own = node.attribute("pads")
    total = tuple(a + b for a, b in zip(own, pads, strict=True))
    attributes = tuple((key, total if key == "pads" else value) for key, value in node.attributes)
    return replace(node, inputs=source.inputs, attributes=attributes)
