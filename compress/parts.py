"""The parts of a classifier, by which its bytes are counted: every tensor belongs to one."""

from torch import nn

from winnow.compress.integer import IntegerEmbedding
from winnow.ssl.model import Classifier

PARTS = (
    "encoder_weights",
    "encoder_scales",
    "encoder_biases",
    "norms",
    "positions",
    "embeddings",
    "frontend",
    "head",
)
ENCODER = ("encoder_weights", "encoder_scales", "encoder_biases", "norms")


def part(name: str, model: Classifier) -> str | None:
    """Give the part that a tensor of a model belongs to, of `PARTS`; None if it is none of the model's."""
    owner, _, kind = name.rpartition(".")
    module: nn.Module | None = dict(model.named_modules()).get(owner)
    if name == "encoder.positions":
        return "positions"
    if module is None or not owner:
        return None
    if isinstance(module, nn.LayerNorm):
        return "norms"
    if isinstance(module, nn.Embedding | IntegerEmbedding):
        return "embeddings"
    if owner == "head":
        return "head"
    if owner.startswith("encoder.layers."):
        return {"weight": "encoder_weights", "bias": "encoder_biases"}.get(kind, "encoder_scales")
    return "frontend"
