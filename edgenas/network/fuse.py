"""Network -> Kernels, under a runtime's fusion rules given as data."""

from __future__ import annotations

from dataclasses import dataclass

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.network.graph import Network, Node, Shape


@dataclass(frozen=True)
class FusionRules:
    """What an anchor operation takes into its own kernel, in this order: `add`, then `activations`.

    `conv_add`: a convolution adds a second tensor while it writes. `activations_after`: anchor -> the activations it
    absorbs. `views`: operations that cost next to nothing but are still a node to the runtime.
    """

    conv_add: bool
    activations_after: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class FusedKernel:
    """A kernel and the nodes of the network that it runs."""

    kernel: Kernel
    members: tuple[str, ...]


def fuse(network: Network, rules: FusionRules, precision: Precision) -> tuple[FusedKernel, ...]:
    """The kernels in the order in which they run."""
    taken: set[str] = set()
    anchors = {node.name: _chain(network, node, rules, taken) for node in reversed(network.nodes) if node.op == "Conv"}
    fused = []
    for node in network.nodes:
        if node.name in taken and node.name not in anchors:
            continue
        chain = anchors.get(node.name) or _chain(network, node, rules, taken)
        members = tuple(member.name for member in chain)
        fused.append(FusedKernel(_kernel(network, chain, precision), members))
    return tuple(fused)


def _chain(network: Network, node: Node, rules: FusionRules, taken: set[str]) -> list[Node]:
    """`node` and what it absorbs. Convolutions are asked last to first: of two that feed one Add the later one takes it,
    because only then is the other operand ready."""
    chain = [node]
    after = network.sole_consumer(node.name)
    if node.op == "Conv" and rules.conv_add and after is not None and after.op == "Add" and after.name not in taken:
        chain.append(after)
        after = network.sole_consumer(after.name)
    anchor = chain[-1].op if chain[-1].op in rules.activations_after else node.op
    if after is not None and after.op in rules.activations_after.get(anchor, ()) and after.name not in taken:
        chain.append(after)
    taken.update(member.name for member in chain)
    return chain


def _kernel(network: Network, chain: list[Node], precision: Precision) -> Kernel:
    node = chain[0]
    fields = dict(node.attributes)
    return Kernel(
        op=node.op,
        in_shape=_without_batch(network.shape_of(node.inputs[0])),
        out_shape=_without_batch(node.shape),
        kernel_size_hw=fields.get("kernel_shape", (0, 0)),
        stride_hw=fields.get("strides", (0, 0)),
        dilation_hw=fields.get("dilations", (0, 0)),
        pads=fields.get("pads", ()),
        groups=fields.get("group", 1),
        fused=tuple(member.op for member in chain[1:]),
        precision=precision,
    )


def _without_batch(shape: Shape) -> Shape:
    return shape[1:]
