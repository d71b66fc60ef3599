"""An ONNX model in the words of an older runtime: operators that it lacks as primitives of opset 13, and an older opset.

Each operator to be replaced becomes a call of a model-local function whose body is ONNX's own definition of the operator, and ONNX's
inliner puts the body in its place. The definitions are written here because the bodies that ONNX's schemas bring along use newer
operators themselves (CastLike), and because ONNX's version converter has no way back (it knows no adapter from opset 14 to 13).
Source: https://onnx.ai/onnx/operators/ (definitions, and what each version of an operator added).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.errors import InputError
from edgenas.onnxio.load import SUBGRAPHS, attributes

if TYPE_CHECKING:
    import onnx

DOMAIN = "edgenas.rewrite"
OLDEST_OPSET = 13
ONNX = ("", "ai.onnx")
# Operators that mean something else from this opset on, though they look the same.
MEANS_OTHERWISE = {"RoiAlign": 16, "GroupNormalization": 21}


def rewritten(
    model: onnx.ModelProto, unsupported: Collection[str], opset: int | None = None
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A model that computes the same without the `unsupported` operators as far as they are REWRITABLE, without functions of its own,
    at `opset` where its own is newer, with the least IR version; and what was done, one line each (none: the same model).

    Raises InputError for an operator that can't go to the older opset, with its name.
    """
    import onnx

    done = [f"the function {each.name} was put in the place of its calls" for each in model.functions]
    model = inlined(model)
    own = opset_of(model)
    target = min(own, opset or own)
    replaced = [node for node in model.graph.node if node.op_type in unsupported and _body(model, node, target)]
    ir_version = least_ir_version(target)
    if not replaced and target == own and ir_version >= model.ir_version:
        return model, tuple(done)
    if problems := lowering_problems(model, target, {node.op_type for node in replaced}):
        raise InputError(f"the model can't be written at opset {target}: {problems[0]}", "Export it at that opset.")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for number, node in enumerate(result.graph.node):
        if node.op_type in unsupported and node.domain in ONNX and (body := _body(model, node, target)):
            done.append(f"{node.op_type} node {node.name or node.output[0]!r} became primitives")
            _call(result, node, body, f"{node.op_type}{number}", target)
        elif node.domain in ONNX:
            _lower(result, node, own, target)
    if target < own:
        next(each for each in result.opset_import if each.domain in ONNX).version = target
        done.append(f"opset {own} became {target}")
    del result.graph.value_info[:]
    result = inlined(result)
    if ir_version < result.ir_version:
        done.append(f"IR version {result.ir_version} became {ir_version}")
        result.ir_version = ir_version
    try:  # an output may lack its shape, which runtimes take and ONNX's checker doesn't
        onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        said = " ".join(str(error).split())
        raise InputError(f"the model can't be written at opset {target}: {said}", "Export it in float32.") from error
    return result, tuple(done)


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own: what they compute stands where they were called."""
    if not model.functions:
        return model
    import onnx.inliner

    domains = {each.domain for each in model.functions}
    result = onnx.inliner.inline_local_functions(model, convert_version=True)
    left = {node.domain for node in result.graph.node}
    kept = [each for each in result.opset_import if each.domain not in domains - left]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    return result


def opset_of(model: onnx.ModelProto) -> int:
    """Of ONNX's own domain."""
    return next((each.version for each in model.opset_import if each.domain in ONNX), 1)


def least_ir_version(opset: int) -> int:
    """The oldest IR version that can say the opset; at least 4, from which on weights need not be inputs."""
    from onnx import helper

    return max(4, helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))


def lowering_problems(model: onnx.ModelProto, opset: int, rewritten: Collection[str] = ()) -> tuple[str, ...]:
    """Why the model can't be written at that older opset, a clause for each operator; operators in `rewritten` go anyway."""
    own = opset_of(model)
    if opset >= own:
        return ()
    if opset < OLDEST_OPSET:
        return (f"opset {OLDEST_OPSET} is the oldest that edgenas writes",)
    constants = _constants(model)
    found = {
        problem: None
        for node in model.graph.node
        if node.domain in ONNX and node.op_type not in rewritten
        for problem in [_lowering_problem(node, own, opset, constants)]
        if problem
    }
    return tuple(found)


def _lowering_problem(node: onnx.NodeProto, own: int, opset: int, constants: Collection[str]) -> str | None:
    from onnx import defs

    if node.op_type in SUBGRAPHS:
        return f"{node.op_type} holds a graph of its own"
    if not defs.has(node.op_type, max_inclusive_version=opset, domain=""):
        return f"{node.op_type} exists from opset {defs.get_schema(node.op_type, own, '').since_version} on"
    if opset < MEANS_OTHERWISE.get(node.op_type, 0) <= own:
        return f"{node.op_type} means something else from opset {MEANS_OTHERWISE[node.op_type]} on"
    old, new = defs.get_schema(node.op_type, opset, ""), defs.get_schema(node.op_type, own, "")
    for attribute in node.attribute:
        # an even split needs no number: the outputs are counted
        counted = (node.op_type, attribute.name, attribute.i) == ("Split", "num_outputs", len(node.output))
        if attribute.name not in old.attributes and not counted and not _is_default(attribute, new):
            return f"{node.op_type} has the attribute {attribute.name}, which is newer"
    if len(node.input) > old.max_input and not (_axes_move(node, old) and node.input[-1] in constants):
        return f"{node.op_type} has more inputs than it had then"
    return None


def _constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], each.t) for each in node.attribute if each.name == "value")
    return found


def _is_default(attribute: onnx.AttributeProto, schema: onnx.defs.OpSchema) -> bool:
    default = schema.attributes[attribute.name].default_value
    return bool(default.type) and default.SerializeToString() == attribute.SerializeToString()


def _axes_move(node: onnx.NodeProto, old: onnx.defs.OpSchema) -> bool:
    """Whether the node's last input is the axes that were an attribute then: those of the reductions, up to opset 17."""
    return "axes" in old.attributes and len(node.input) == old.max_input + 1


def _lower(model: onnx.ModelProto, node: onnx.NodeProto, own: int, opset: int) -> None:
    """Spells the node, in place, as it was at `opset`. What can't be was refused before."""
    from onnx import defs, helper, numpy_helper

    if own == opset:
        return
    old = defs.get_schema(node.op_type, opset, "")
    if _axes_move(node, old):
        axes = numpy_helper.to_array(_constants(model)[node.input.pop()])
        node.attribute.append(helper.make_attribute("axes", axes.ravel().tolist()))
    kept = [attribute for attribute in node.attribute if attribute.name in old.attributes]
    del node.attribute[:]
    node.attribute.extend(kept)


def _call(model: onnx.ModelProto, node: onnx.NodeProto, body: str, name: str, opset: int) -> None:
    """Makes the node, in place, a call of a function of its own."""
    from onnx import helper, parser

    inputs = [f"i{i}" for i in range(len(node.input))]
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>\n{name} ({", ".join(inputs)}) => (y)'
    model.functions.append(parser.parse_function(f"{header} {{ {body} }}"))
    if all(each.domain != DOMAIN for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    outputs = [output for output in node.output if output]
    node.CopyFrom(helper.make_node(name, list(node.input), outputs, name=node.name, domain=DOMAIN))


def _body(model: onnx.ModelProto, node: onnx.NodeProto, opset: int) -> str | None:
    """The definition of that node in ONNX's text form, from inputs i0, i1, ... to y; None where there is none."""
    if node.op_type not in REWRITABLE or node.domain not in ONNX or any(node.output[1:]):
        return None
    return REWRITABLE[node.op_type](model, node, attributes(node), opset)


def _number(name: str, value: float) -> str:
    return f"{name} = Constant <value = float {{{np.float32(value):.9g}}}> ()\n"


def _hard_swish(model: onnx.ModelProto, node: onnx.NodeProto, given: Mapping[str, Any], opset: int) -> str:
    return f"gate = HardSigmoid <alpha = {np.float32(1 / 6):.9g}, beta = 0.5> (i0)\n y = Mul (i0, gate)"


def _swish(model: onnx.ModelProto, node: onnx.NodeProto, given: Mapping[str, Any], opset: int) -> str:
    return (
        _number("alpha", given.get("alpha", 1.0))
        + "scaled = Mul (i0, alpha) gate = Sigmoid (scaled) y = Mul (i0, gate)"
    )


def _mish(model: onnx.ModelProto, node: onnx.NodeProto, given: Mapping[str, Any], opset: int) -> str:
    return "soft = Softplus (i0) gate = Tanh (soft) y = Mul (i0, gate)"


def _gelu(model: onnx.ModelProto, node: onnx.NodeProto, given: Mapping[str, Any], opset: int) -> str:
    start = _number("half", 0.5) + _number("one", 1.0)
    end = "more = Add (gate, one) halved = Mul (i0, half) y = Mul (halved, more)"
    if given.get("approximate", b"none") == b"tanh":
        start += _number("cubic", 0.044715) + _number("factor", np.sqrt(2 / np.pi))
        inner = "square = Mul (i0, i0) cube = Mul (square, i0) part = Mul (cube, cubic) sum = Add (i0, part)"
        return f"{start} {inner} inner = Mul (sum, factor) gate = Tanh (inner) {end}"
    return f"{start} {_number('root', np.sqrt(2))} inner = Div (i0, root) gate = Erf (inner) {end}"


def _reciprocal(model: onnx.ModelProto, node: onnx.NodeProto, given: Mapping[str, Any], opset: int) -> str:
    return _number("one", 1.0) + "y = Div (one, i0)"


def _layer_normalization(
    model: onnx.ModelProto, node: onnx.NodeProto, given: Mapping[str, Any], opset: int
) -> str | None:
    axis = given.get("axis", -1)
    rank = 0 if axis < 0 else _rank(model, node.input[0])
    if axis >= 0 and rank is None:
        return None
    axes = list(range(axis, rank or 0))

    def mean(made: str, read: str) -> str:
        if opset < 18:
            return f"{made} = ReduceMean <axes = {axes}, keepdims = 1> ({read})\n"
        return f"{made} = ReduceMean <keepdims = 1> ({read}, axes)\n"

    start = _number("epsilon", given.get("epsilon", 1e-5))
    if opset >= 18:
        start += f"axes = Constant <value_ints = {axes}> ()\n"
    shift = "centred = Sub (i0, mean) square = Mul (centred, centred)\n"
    scale = "more = Add (variance, epsilon) deviation = Sqrt (more) normal = Div (centred, deviation)\n"
    end = "scaled = Mul (normal, i1) y = Add (scaled, i2)" if len(node.input) > 2 else "y = Mul (normal, i1)"
    return start + mean("mean", "i0") + shift + mean("variance", "square") + scale + end


def _rank(model: onnx.ModelProto, tensor: str) -> int | None:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    for value in (*graph.input, *graph.value_info):
        if value.name == tensor and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    return None


Body = Callable[["onnx.ModelProto", "onnx.NodeProto", Mapping[str, Any], int], str | None]
REWRITABLE: dict[str, Body] = {
    "HardSwish": _hard_swish,
    "Swish": _swish,
    "Mish": _mish,
    "Gelu": _gelu,
    "Reciprocal": _reciprocal,
    "LayerNormalization": _layer_normalization,
}
