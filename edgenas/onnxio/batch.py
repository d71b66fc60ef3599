"""A model of batch 1 for a larger batch: for runtimes that take many images at a time to find out an accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgenas.errors import EdgenasError

if TYPE_CHECKING:
    import onnx


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The same network, its inputs and outputs with `batch` as their first side instead of 1. Raises EdgenasError for a network that
    mixes the images of a batch, or that has another batch already."""
    import onnx
    from onnx import numpy_helper

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    del graph.value_info[:]
    weights = {tensor.name for tensor in graph.initializer}
    for value in [value for value in (*graph.input, *graph.output) if value.name not in weights]:
        side = value.type.tensor_type.shape.dim[0]
        if side.dim_value != 1:
            raise EdgenasError(
                f"{value.name!r} was expected to have a batch of 1, but has {side.dim_value or side.dim_param!r}"
            )
        side.dim_value = batch
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in shapes:
            sides = numpy_helper.to_array(tensor).copy()
            if sides[0] == 1:
                sides[0] = batch
                tensor.CopyFrom(numpy_helper.from_array(sides, tensor.name))
    try:
        onnx.shape_inference.infer_shapes(changed, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise EdgenasError(f"the network can't take {batch} images at a time: {error}") from error
    return changed
