"""Classifiers as ONNX files: writing, and what they weigh.

A file is a function of the model alone: names of this machine's folders, which the exporter leaves
in a graph, are taken out, so that two exports are the same bytes.
"""

import json
import logging
import warnings
from functools import lru_cache
from pathlib import Path

import onnx
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor, nn

from winnow.compress import integer
from winnow.ssl import model as models
from winnow.ssl.model import Classifier

ZSTD_LEVEL = 19


def to_onnx(model: Classifier, x: Tensor, path: Path) -> None:
    """Write a classifier as one ONNX file: `x`, any number of samples, to `logits` and `embeddings`.

    The file says what the classes are and how samples are read, in its metadata.

    Args:
        model: a float classifier, or one of `winnow.compress.integer`.
        x: at least two samples, for their shape.
        path: ends in `.onnx`.

    Raises:
        RuntimeError: if a layer that is quantized is not so in the graph.
    """
    # Freshly imported translators warn about torch's own deprecations; none is ours to mend.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The exporter's optimizer tells of every node that it folds.
        for chatty in ("torch.onnx", "onnxscript", "onnx_ir"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Answering(model).eval(),
            (x[:2],),
            dynamo=True,
            opset_version=integer.OPSET,
            input_names=["x"],
            output_names=["logits", "embeddings"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    proto = _stripped(program.model_proto)
    _require_quantized(proto, model)
    onnx.helper.set_model_props(
        proto,
        {
            "classes": json.dumps(model.classes, ensure_ascii=False),
            "modality": json.dumps(models.section(model.encoder.modality), sort_keys=True),
        },
    )
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


class _Answering(nn.Module):
    """A classifier that says both what it reads its answer from, and the answer; tensors keep names."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head

    def forward(self, x: Tensor) -> tuple[Float[Tensor, "batch class"], Float[Tensor, "batch dim"]]:
        embedding = self.encoder.pooled(self.encoder(x))
        return self.head(embedding), embedding


def _stripped(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Leave only what a runtime reads: no stack traces, no documentation, no versions of tools."""
    proto.producer_name, proto.producer_version, proto.doc_string = "winnow", "", ""
    graph = proto.graph
    del graph.value_info[:], graph.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    return proto


def _require_quantized(proto: onnx.ModelProto, model: Classifier) -> None:
    """Make sure that no layer was left in float on the way: exporters do so without a word."""
    layers, biases, embeddings, attentions = integer.count(model)
    kind = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    maker = {name: node for node in proto.graph.node for name in node.output}

    def stands_for(name: str) -> int | None:
        """Give the type of the integers that a value is dequantized from; None for a float."""
        node = maker.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return kind.get(node.input[0], onnx.TensorProto.UINT8)

    inputs = [[stands_for(name) for name in node.input] for node in proto.graph.node]
    tables = [node.input[0] for node in proto.graph.node if node.op_type == "Gather"]
    uint8, int8 = onnx.TensorProto.UINT8, onnx.TensorProto.INT8
    found = {
        "products of uint8 and int8": sum(types[:2] == [uint8, int8] for types in inputs),
        "int32 biases": sum(onnx.TensorProto.INT32 in types for types in inputs),
        "look-ups in int8": sum(kind.get(table) == int8 for table in tables),
        "products of uint8 and uint8": sum(types[:2] == [uint8, uint8] for types in inputs),
    }
    wanted = dict(zip(found, (layers, biases, embeddings, 2 * attentions), strict=True))
    if found != wanted:
        raise RuntimeError(f"the graph has {found}, the model {wanted}")


@lru_cache(maxsize=8)  # the same files are counted in several ratios
def compressed_bytes(content: bytes) -> int:
    """Give the size of something under Zstandard [bytes]."""
    return len(pa.Codec("zstd", ZSTD_LEVEL).compress(content, asbytes=True))
