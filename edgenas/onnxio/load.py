"""An ONNX file, opened: checked, with every shape worked out and told apart what is computed from what is constant.

Weights are not read (a file with external data opens as fast as one without), and what only computes shapes counts as constant,
because every shape is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.errors import InputError
from edgenas.network.graph import Shape

if TYPE_CHECKING:
    import onnx

SMALL = 1024  # values: what a shape or a bound may be made of; anything bigger is a weight
SUBGRAPHS = ("If", "Loop", "Scan", "SequenceMap")
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
FOLD_ROUNDS = 8
GIVE_SIDES = "Export it with fixed sides; predict also takes them: --input-shape 1x3x224x224."


@dataclass(frozen=True)
class OpenGraph:
    """`protos` are the nodes that compute, in order; `shapes` holds every tensor's; `notes` what had to be assumed."""

    label: str
    model: onnx.ModelProto
    protos: tuple[onnx.NodeProto, ...]
    constants: frozenset[str]
    shapes: Mapping[str, Shape]
    inputs: tuple[tuple[str, Shape], ...]
    outputs: tuple[str, ...]
    notes: tuple[str, ...]

    def shape(self, tensor: str) -> Shape:
        return self.shapes[tensor]

    def value(self, tensor: str) -> np.ndarray | None:
        """What a constant holds, or None for a tensor that is computed. Constants made by other nodes are computed here."""
        return self._values.get(tensor) if tensor in self.constants else None

    @cached_property
    def _values(self) -> _Values:
        return _Values(self.model)

    def refusal(self, proto: onnx.NodeProto, problem: str) -> InputError:
        return InputError(f"{self.label}: {proto.op_type} node {proto.output[0]!r} {problem}")


def open_graph(model: str | Path | onnx.ModelProto, input_shapes: Mapping[str, Shape] | None = None) -> OpenGraph:
    """`input_shapes` fixes inputs by name ("" names the only one). A dynamic batch becomes 1.

    Raises InputError, naming file and node, for what is not ONNX or was cut short, breaks ONNX's rules, branches or loops at run
    time, or has a tensor without a static shape.
    """
    import onnx

    label = "the ONNX model" if isinstance(model, onnx.ModelProto) else str(model)
    proto = model if isinstance(model, onnx.ModelProto) else load(Path(model))
    for node in proto.graph.node:
        if node.op_type in SUBGRAPHS and node.domain in ("", "ai.onnx"):
            raise InputError(
                f"{label}: node {node.output[0]!r} is a {node.op_type}: what it runs depends on the data, so its time can't be told",
                "Export the branch that is used, or measure the model.",
            )
    inputs = _fixed_inputs(proto, label, input_shapes or {})
    shapes, notes = _shapes(proto, inputs, label)
    constants = _constants(proto, shapes)
    protos = tuple(node for node in proto.graph.node if not constants.issuperset(o for o in node.output if o))
    outputs = tuple(value.name for value in proto.graph.output if value.name not in constants)
    read = {*outputs, *(name for node in protos for name in node.input)}
    for node in protos:
        for name in (*node.input, *(name for name in node.output if name in read)):
            if name and name not in shapes and name not in constants:
                raise InputError(
                    f"{label}: {node.op_type} node {node.output[0]!r}: the tensor {name!r} has no static shape",
                    "It may be no operator of ONNX, or need inputs of fixed sides. " + GIVE_SIDES,
                )
    if not outputs:
        raise InputError(f"{label}: nothing that it returns is computed from its input")
    return OpenGraph(label, proto, protos, constants, shapes, tuple(inputs.items()), outputs, notes)


def load(path: Path) -> onnx.ModelProto:
    """The file without its external data. Raises InputError for a file that can't be read or is none of ONNX."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    except DecodeError:
        model = onnx.ModelProto()
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{path} is not an ONNX file, or was cut short", "Export or copy it again.")
    return model


def _fixed_inputs(model: onnx.ModelProto, label: str, given: Mapping[str, Shape]) -> dict[str, Shape]:
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in weights]
    if not values:
        raise InputError(f"{label}: one input or more was expected, but it has none")
    if "" in given:
        given = {**given, values[0].name: given[""]}
    unknown = set(given) - {value.name for value in values} - {""}
    if unknown:
        raise InputError(f"{label} has no input {sorted(unknown)[0]!r}", f"Its inputs: {[v.name for v in values]}.")
    return {value.name: given.get(value.name) or _fixed(value, label) for value in values}


def _fixed(value: onnx.ValueInfoProto, label: str) -> Shape:
    sides = value.type.tensor_type.shape.dim
    shape = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in sides]
    if not shape and not value.type.tensor_type.HasField("shape"):
        raise InputError(f"{label}: the input {value.name!r} has no shape", GIVE_SIDES)
    if shape and shape[0] <= 0:
        shape[0] = 1
    if any(side <= 0 for side in shape):
        names = [dim.dim_value or dim.dim_param or "?" for dim in sides]
        raise InputError(
            f"{label}: the input {value.name!r} has no static shape: {'x'.join(map(str, names))}",
            GIVE_SIDES,
        )
    if len(shape) == 4 and shape[0] != 1:
        raise InputError(
            f"{label}: a batch of 1 was expected, but the input {value.name!r} is {'x'.join(map(str, shape))}",
            f"Export with a batch of 1; predict also takes --input-shape {'x'.join(map(str, (1, *shape[1:])))}.",
        )
    return tuple(shape)


def _shapes(
    model: onnx.ModelProto, inputs: Mapping[str, Shape], label: str
) -> tuple[dict[str, Shape], tuple[str, ...]]:
    """Of every tensor, by ONNX's own inference over the graph without its weights' values; where that stops, what computes shapes
    is evaluated and inference goes on; behind an operator that ONNX doesn't know, the shape is taken to be that of its input."""
    import onnx

    known: dict[str, np.ndarray] = {}
    guessed: dict[str, Shape] = {}
    notes: list[str] = []
    read = {*(value.name for value in model.graph.output), *(name for node in model.graph.node for name in node.input)}
    for _ in range(FOLD_ROUNDS + len(model.graph.node)):
        skeleton = _skeleton(model, inputs, known, guessed)
        try:
            graph = onnx.shape_inference.infer_shapes(skeleton, strict_mode=True, data_prop=True).graph
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise InputError(f"{label} is not valid ONNX: {' '.join(str(error).split())}") from error
        shapes = {value.name: found for value in (*graph.input, *graph.value_info, *graph.output)
                  if (found := _static(value)) is not None}  # fmt: skip
        shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        missing = [node for node in model.graph.node if any(o in read and o not in shapes for o in node.output)]
        if not missing:
            break
        folded = _evaluated(model, shapes, known)
        if folded:
            known |= folded
            continue
        node = missing[0]
        if node.domain in ("", "ai.onnx") or any(i and i not in shapes for i in node.input):
            break  # said by the caller, who knows whether the tensor is needed
        computed = [i for i in node.input if i and i not in {t.name for t in model.graph.initializer}]
        guessed |= {o: shapes[computed[0]] for o in node.output if o and computed}
        notes.append(f"{node.domain}.{node.op_type} is not known: its output is taken to have its input's shape")
        if not computed:
            break
    _check_references(model, inputs, label)
    return shapes, tuple(dict.fromkeys(notes))


def _check_references(model: onnx.ModelProto, inputs: Mapping[str, Shape], label: str) -> None:
    made = {*inputs, *(tensor.name for tensor in model.graph.initializer), ""}
    made |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    for node in model.graph.node:
        if missing := [name for name in node.input if name not in made]:
            raise InputError(
                f"{label} is not valid ONNX: node {node.output[0]!r} reads {missing[0]!r}, which nothing before it makes"
            )
        made |= set(node.output)
    if lost := [value.name for value in model.graph.output if value.name not in made]:
        raise InputError(f"{label} is not valid ONNX: the output {lost[0]!r} is made by no node")


def _skeleton(
    model: onnx.ModelProto, inputs: Mapping[str, Shape], known: Mapping[str, np.ndarray], guessed: Mapping[str, Shape]
) -> onnx.ModelProto:
    """The model with weights as mere inputs, without the shapes that its maker wrote down (they may be for another batch)."""
    import onnx
    from onnx import helper, numpy_helper

    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    bare = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    bare.functions.extend(model.functions)
    bare.graph.name = model.graph.name or "graph"
    bare.graph.node.extend(node for node in model.graph.node if node.output[0] not in known)
    for name, shape in inputs.items():
        bare.graph.input.append(helper.make_tensor_value_info(name, types[name], shape))
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            bare.graph.initializer.append(tensor)
        else:
            bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    bare.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in known.items())
    for name, shape in guessed.items():
        bare.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    for value in model.graph.output:
        output = bare.graph.output.add(name=value.name)
        output.type.tensor_type.elem_type = value.type.tensor_type.elem_type
    return bare


def _static(value: onnx.ValueInfoProto) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _evaluated(
    model: onnx.ModelProto, shapes: Mapping[str, Shape], known: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The small values that follow from what is known now and stood open before."""
    values = _Values(model, dict(known))
    found: dict[str, np.ndarray] = {}
    for node in model.graph.node:
        name = node.output[0]
        big = prod(shapes.get(name, ())) > SMALL
        if big or name in known or len(node.output) != 1 or node.op_type in RANDOM:
            continue
        if node.op_type == "Shape" and node.input[0] in shapes:
            value: np.ndarray | None = _shape_value(node, shapes[node.input[0]])
        else:
            value = values.computed(node)
        if value is not None and value.size <= SMALL:
            found[name] = values.known[name] = value
    return found


def _shape_value(node: onnx.NodeProto, shape: Shape) -> np.ndarray:
    given = attributes(node)
    return np.array(shape[given.get("start", 0) : given.get("end")], np.int64)


def _constants(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> frozenset[str]:
    found = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        fixed = node.op_type == "Shape" and node.input[0] in shapes
        if fixed or (node.op_type not in RANDOM and all(name in found or not name for name in node.input)):
            found |= {name for name in node.output if name}
    return frozenset(found)


class _Values:
    """Values of constants, computed when they are asked for."""

    def __init__(self, model: onnx.ModelProto, known: dict[str, np.ndarray] | None = None) -> None:
        self.known = {} if known is None else known
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {node.output[0]: node for node in model.graph.node}
        self._model = model

    def get(self, name: str) -> np.ndarray | None:
        from onnx import TensorProto, numpy_helper

        if name not in self.known:
            tensor = self._tensors.get(name)
            if tensor is not None and tensor.data_location != TensorProto.EXTERNAL:
                self.known[name] = numpy_helper.to_array(tensor)
            elif name in self._makers and (value := self.computed(self._makers[name])) is not None:
                self.known[name] = value
        return self.known.get(name)

    def computed(self, node: onnx.NodeProto) -> np.ndarray | None:
        """The node's first output from known inputs, or None where one is not known or the node is none of ONNX's."""
        inputs = {name: self.get(name) for name in node.input if name}
        if node.domain not in ("", "ai.onnx") or any(value is None for value in inputs.values()):
            return None
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        given = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                 for name, v in inputs.items() if v is not None]  # fmt: skip
        output = helper.make_tensor_value_info(node.output[0], 0, None)
        graph = helper.make_graph([node], "constant", given, [output])
        single = helper.make_model(graph, opset_imports=self._model.opset_import)
        try:
            results = list(ReferenceEvaluator(single).run(None, inputs))
        except Exception:  # an operator that the reference lacks: a shape that needs the value is refused later on
            return None
        return np.asarray(results[0])


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
