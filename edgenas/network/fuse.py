"""Network -> Kernels, under a runtime's fusion rules given as data: what runs as one, in which layout, and what is moved between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgenas.artifacts.kernel import RECURRENT, Kernel, Precision
from edgenas.network.graph import Network, Node, Shape

BLOCKED = "blocked"
CHANNELS_LAST = (0, 2, 3, 1)
FIRST_COUNTS = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    *RECURRENT,
)  # of their inputs, it is the first whose size tells the work
PARTS = ("Part",)  # further outputs of a node: made by its kernel


@dataclass(frozen=True)
class BlockedLayout:
    """A layout in which channels lie in blocks of `block` (NCHWc), and what runs in it.

    A convolution needs input channels in multiples of `conv_multiple`, or fewer than a block (it then reads the plain layout), a
    pool whole blocks. `elementwise` runs in whichever layout its input has. A convolution takes a sum (`conv_add`) with it, and then
    one of `activations_after_add`.
    """

    block: int
    conv_multiple: int
    pools: tuple[str, ...]
    global_pools: tuple[str, ...]
    elementwise: tuple[str, ...]
    conv_add: tuple[str, ...]
    activations_after_add: tuple[str, ...]

    def takes_conv(self, network: Network, node: Node) -> bool:
        c_in, c_out, groups = network.shape_of(node.inputs[0])[1], node.shape[1], node.attribute("group")
        if groups == 1:
            return self.reads_plain(network, node) or c_in % self.conv_multiple == 0
        if node.is_depthwise:
            return c_in == c_out and c_in % self.conv_multiple == 0
        return (c_in // groups) % self.block == 0 and (c_out // groups) % self.block == 0

    def reads_plain(self, network: Network, node: Node) -> bool:
        return node.attribute("group") == 1 and network.shape_of(node.inputs[0])[1] < self.block


@dataclass(frozen=True)
class FusionRules:
    """What an operation takes into its own kernel. `activations_after`: anchor -> the activations it absorbs.

    `conv_add`: the sums that a convolution computes while it writes, after which it absorbs one of `activations_after_add`.
    `layout`: another one than the plain, with its own rules of sums.
    """

    conv_add: tuple[str, ...]
    activations_after: Mapping[str, tuple[str, ...]]
    activations_after_add: tuple[str, ...] = ()
    layout: BlockedLayout | None = None


@dataclass(frozen=True)
class FusedKernel:
    """A kernel and the nodes of the network that it runs; none for one that only moves a tensor to another layout."""

    kernel: Kernel
    members: tuple[str, ...]


def fuse(network: Network, rules: FusionRules, precision: Precision) -> tuple[FusedKernel, ...]:
    """The kernels in the order of the nodes that they start with; a tensor is moved to another layout right before it is read so."""
    return tuple(_Fuser(network, rules, precision).run())


@dataclass(eq=False)
class _Chain:
    """Nodes that run as one kernel, the first of them the anchor."""

    members: list[Node]
    layout: str = ""
    has_added: bool = False
    is_activated: bool = False


@dataclass(eq=False)
class _Move:
    """A tensor brought into the blocked layout or out of it."""

    op: str
    tensor: str


@dataclass
class _Fuser:
    network: Network
    rules: FusionRules
    precision: Precision
    steps: list[_Chain | _Move] = field(default_factory=list)
    chain_of: dict[str, _Chain] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)  # tensors that were made in blocks
    moved: set[tuple[str, str]] = field(default_factory=set)

    def run(self) -> list[FusedKernel]:
        for node in self.network.nodes:
            if node.op not in PARTS:
                self._take(node)
        for name in self.network.outputs:
            self._plain(name)
        return [self._kernel(step) for step in self.steps]

    def _take(self, node: Node) -> None:
        layout = self.rules.layout
        if len(node.inputs) == 1 and (chain := self._taker(node)) is not None:
            chain.members.append(node)
            chain.is_activated = True
            self._made(node, chain)
            return
        blocked = layout is not None and self._runs_blocked(node, layout)
        if node.op == "Transpose" and node.inputs[0] in self.blocked and node.attribute("perm") == CHANNELS_LAST:
            chain = _Chain([replace(node, op="ReorderOutput")])  # one move out of the blocks does both
            self.steps.append(chain)
            self._made(node, chain)
            return
        if node.op in (layout.conv_add if blocked and layout is not None else self.rules.conv_add):
            chain = self._adder(node, BLOCKED if blocked else "")
            if chain is not None:
                chain.members.append(node)
                chain.has_added = True
                self._made(node, chain)
                return
        for name in node.inputs:
            if blocked and layout is not None and not (node.op == "Conv" and layout.reads_plain(self.network, node)):
                self._in_blocks(name)
            else:
                self._plain(name)
        chain = _Chain([node], BLOCKED if blocked else "")
        self.steps.append(chain)
        self._made(node, chain)

    def _made(self, node: Node, chain: _Chain) -> None:
        self.chain_of[node.name] = chain
        if chain.layout:
            self.blocked.add(node.name)

    def _taker(self, node: Node) -> _Chain | None:
        """The kernel that computes this activation while it writes."""
        chain = self.chain_of.get(node.inputs[0])
        if chain is None or chain.is_activated or self.network.sole_consumer(node.inputs[0]) is not node:
            return None
        anchor = chain.members[0].op
        if anchor == "BatchNormalization" and chain.layout:
            anchor = "Conv"  # of one weight a channel
        rules = self.rules.layout if chain.layout and self.rules.layout else self.rules
        allowed = rules.activations_after_add if chain.has_added else self.rules.activations_after.get(anchor, ())
        return chain if node.op in allowed else None

    def _adder(self, node: Node, layout: str) -> _Chain | None:
        """The convolution that adds the other operand while it writes. It then runs when that is ready.

        Of two, ONNX Runtime takes the first operand's in its blocked layout, the second's in the plain one."""
        if len(node.inputs) != 2 or len({self.network.shape_of(name) for name in node.inputs}) > 1:
            return None
        pairs = (node.inputs, node.inputs[::-1])
        places = {id(step): i for i, step in enumerate(self.steps)}
        for name, other in pairs if layout else pairs[::-1]:
            chain = self.chain_of.get(name)
            if chain is None or chain.layout != layout or chain.has_added or chain.is_activated:
                continue
            if chain.members[0].op == "Conv" and self.network.sole_consumer(name) is node and name != other:
                source = self.chain_of.get(other)
                if not layout and other in self.blocked:
                    self._plain(other)
                    self.steps.remove(chain)
                    self.steps.append(chain)
                elif source is not None and places[id(source)] > places[id(chain)]:
                    self.steps.remove(chain)
                    self.steps.append(chain)
                return chain
        return None

    def _runs_blocked(self, node: Node, layout: BlockedLayout) -> bool:
        if len(node.shape) != 4 or not node.inputs:
            return False
        c_in = self.network.shape_of(node.inputs[0])[1]
        if node.op == "Conv":
            return len(node.inputs) == 1 and layout.takes_conv(self.network, node)
        if node.op in layout.pools:
            return c_in % layout.block == 0
        if not all(name in self.blocked for name in node.inputs):
            return False
        if node.op in layout.global_pools:
            return c_in % layout.block == 0
        if node.op in ("Add", "Sum", "Mul"):
            if (
                node.op == "Mul" and len(node.inputs) == 1
            ):  # a convolution of one weight a channel, as BatchNormalization
                return all(_is_per_channel(shape, node.shape[1]) for shape in dict(node.attributes)["constants"])
            same = {self.network.shape_of(name) for name in node.inputs} == {node.shape}
            return same and len(node.inputs) > 1
        if node.op == "Concat":
            whole = all(self.network.shape_of(name)[1] % layout.block == 0 for name in node.inputs)
            return whole and node.attribute("axis") == 1 and "constants" not in dict(node.attributes)
        if node.op in ("Resize", "Upsample"):
            inner, outer = self.network.shape_of(node.inputs[0]), node.shape
            grows = all(o % i == 0 for i, o in zip(inner[2:], outer[2:], strict=True))
            return inner[:2] == outer[:2] and grows and node.attribute("mode") in ("nearest", "linear")
        return node.op in layout.elementwise

    def _in_blocks(self, tensor: str) -> None:
        if tensor not in self.blocked:
            self._move("ReorderInput", tensor)

    def _plain(self, tensor: str) -> None:
        if tensor in self.blocked:
            self._move("ReorderOutput", tensor)

    def _move(self, op: str, tensor: str) -> None:
        if (op, tensor) not in self.moved:
            self.moved.add((op, tensor))
            self.steps.append(_Move(op, tensor))

    def _kernel(self, step: _Chain | _Move) -> FusedKernel:
        if isinstance(step, _Move):
            shape = _without_batch(self.network.shape_of(step.tensor))
            return FusedKernel(Kernel(step.op, shape, shape, precision=self.precision), ())
        made = kernel_of(self.network, step.members[0], self.precision)
        fused = tuple(member.op for member in step.members[1:])
        return FusedKernel(
            replace(made, fused=fused, layout=step.layout), tuple(member.name for member in step.members)
        )


def kernel_of(network: Network, node: Node, precision: Precision) -> Kernel:
    """The operation alone, with nothing fused."""
    fields = dict(node.attributes)
    inputs = [network.shape_of(name) for name in node.inputs] or [node.shape]
    made = Kernel(
        op=node.op,
        in_shape=_without_batch(inputs[0] if node.op in FIRST_COUNTS else max(inputs, key=_size)),
        out_shape=_without_batch(_out_shape(network, node)),
        weights=sum(_size(shape) for shape in fields.get("constants", ()) if len(shape) > 2)
        if node.op in RECURRENT
        else 0,
        precision=precision,
    )
    if "kernel_shape" not in fields:
        return made
    return replace(
        made,
        kernel_size_hw=fields["kernel_shape"],
        stride_hw=fields["strides"],
        dilation_hw=fields.get("dilations", (1, 1)),
        pads=fields["pads"],
        groups=fields.get("group", 1),
    )


def _out_shape(network: Network, node: Node) -> Shape:
    """Of a node with several outputs: all of them together, along the axis that they share."""
    parts = [network.by_name[name] for name in network.consumers[node.name]]
    shapes = [part.shape for part in parts if part.op in PARTS]
    if not shapes or any(len(shape) != len(node.shape) for shape in shapes):
        return node.shape
    return max([*shapes, network.shape_of(node.inputs[0])], key=_size) if node.inputs else node.shape


def _is_per_channel(shape: Shape, channels: int) -> bool:
    return len(shape) >= 3 and shape[-3:] == (channels, 1, 1) and _size(shape) == channels


def _size(shape: Shape) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _without_batch(shape: Shape) -> Shape:
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape or (1,)
