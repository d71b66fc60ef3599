"""torch -> ONNX -> Network and weights: a module of the user's own, in evaluation mode, with every BatchNorm folded.

Nodes are called after the module that they come from: `layer1/0/conv1/Conv` is the convolution in `layer1.0.conv1`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgenas.errors import InputError
from edgenas.network.graph import Network, Node, Shape
from edgenas.onnxio.read import read, read_weights
from edgenas.onnxio.write import OPSET
from edgenas.user_code import said

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

OUTPUT = "logits"
EXPORTED = "_output_0"  # how torch ends the name of what a node makes
ITSELF = "the model itself"
STATIC = "edgenas follows one path through a model: what it computes must not depend on the values of the image"


def from_torch(module: nn.Module, input_shape: Shape, source: str) -> tuple[Network, dict[str, np.ndarray]]:
    """The network of a module with one input (1, C, H, W) and one output, and "<node>.weight" and "<node>.bias" of its weighted
    nodes, float32. Weights that several nodes share are given to each.

    `source` is how errors call the module. Raises InputError for a module whose path depends on the image's values, naming the line
    that decides it, for an operator that ONNX has no form of, and for weights that are no constants.
    """
    model = _exported(module, input_shape, source)
    try:
        network, weights = read(model), read_weights(model)
    except InputError as error:
        raise InputError(f"{source}: {error.message}", error.hint) from error
    names = {tensor: _tidy(tensor) for tensor in (node.name for node in network.nodes)}
    names |= {name: name for name, _ in network.inputs}
    nodes = [
        replace(node, name=names[node.name], inputs=tuple(names[name] for name in node.inputs))
        for node in network.nodes
    ]
    renamed = Network(
        network.inputs, tuple(_pools_for_means(nodes, dict(network.inputs))), (names[network.output_name],)
    )
    found: dict[str, np.ndarray] = {}
    for tensor, name in names.items():
        if tensor in network.by_name and network.by_name[tensor].op in ("Conv", "Gemm"):
            if f"{tensor}.weight" not in weights:
                raise InputError(
                    f"{source}: the weights of {module_of(name)} can't be told, for they are computed or multiplied further",
                    "Let each convolution and fully connected layer have its weights as they are, followed by BatchNorm at most.",
                )
            found |= {f"{name}.{part}": weights[f"{tensor}.{part}"] for part in ("weight", "bias")}
    return renamed, found


def module_of(node: str) -> str:
    """The name, in its model, of the module that a node comes from."""
    return node.rsplit("/", 1)[0].replace("/", ".") if "/" in node else ITSELF


def _exported(module: nn.Module, input_shape: Shape, source: str) -> onnx.ModelProto:
    import onnx
    import torch

    example = (torch.randn(input_shape),)
    with _hushed(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            # the tracer that writes ONNX bakes a path in without a word: this one refuses
            traced = torch.export.export(module, example, strict=False)
        except Exception as error:  # whatever torch raises, of which there is much
            raise InputError(f"{source}: the model can't be traced{_where(error)}: {_reason(error)}", STATIC) from error
        try:
            torch.onnx.export(
                module,
                example,
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=["input"],
                output_names=[OUTPUT],
            )
        except Exception as error:
            place = _module_with_operator(error, traced)
            raise InputError(f"{source}: the model can't be written as ONNX{place}: {_reason(error)}") from error
        return onnx.load(path)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """torch warns of its exporter's age and of sizes that it takes as constants (which they are), and prints graphs when it fails."""
    disabled, stdout = logging.root.manager.disable, os.dup(1)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        Path(os.devnull).open("w") as nowhere,
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        os.dup2(nowhere.fileno(), 1)  # its C++ prints past sys.stdout
        try:
            yield
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
            logging.disable(disabled)


def _where(error: BaseException) -> str:
    """The last line of the user's own code that the error came through."""
    import torch

    foreign = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(foreign)]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} (`{frames[-1].line}`)" if frames else ""


def _module_with_operator(error: BaseException, traced: torch.export.ExportedProgram) -> str:
    """The module that an operator without an ONNX form comes from."""
    operator = re.search(r"operator '([\w:]+)'", str(error))
    for node in traced.graph.nodes:
        name = node.target.name() if node.op == "call_function" and hasattr(node.target, "name") else ""
        if operator and name.split(".")[0] == operator[1]:
            return f", in {list(node.meta['nn_module_stack'].values())[-1][0] or ITSELF}"
    return ""


def _reason(error: BaseException) -> str:
    """The first line of what torch says, which goes on for pages."""
    if "DataDependent" in type(error).__name__:
        return "which way it goes there depends on the image's values"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else said(error)


def _tidy(tensor: str) -> str:
    """/layer1/layer1.0/conv1/Conv_output_0 -> layer1/0/conv1/Conv: a container repeats its own name in its members'."""
    parts = tensor.removesuffix(EXPORTED).strip("/").split("/")
    kept: list[str] = []
    for before, part in zip(["", *parts[:-1]], parts, strict=True):
        kept.append(part.removeprefix(f"{before}."))
    return "/".join(kept).replace(".", "/")


def _pools_for_means(nodes: list[Node], inputs: Mapping[str, Shape]) -> list[Node]:
    """`x.mean((2, 3))` is a global average pool, and a view where it drops the sides."""
    shapes = dict(inputs) | {node.name: node.shape for node in nodes}
    found = []
    for node in nodes:
        before = shapes[node.inputs[0]] if node.inputs else ()
        if node.op != "ReduceMean" or len(before) != 4 or node.shape not in (before[:2], (*before[:2], 1, 1)):
            found.append(node)
            continue
        pooled = (*before[:2], 1, 1)
        if node.shape == pooled:
            found.append(replace(node, op="GlobalAveragePool", attributes=()))
        else:
            pool = Node(f"{node.name}/pool", "GlobalAveragePool", node.inputs, pooled)
            found += [pool, Node(node.name, "Flatten", (pool.name,), node.shape)]
    return found
