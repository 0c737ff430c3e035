import tiny
import torch

from winnow.compress import fakequant, integer, parts
from winnow.data.modality import Modality
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder


def test_every_tensor_of_a_model_has_a_part(modality: Modality) -> None:
    model = Classifier(Encoder(modality, tiny.SHAPE), tiny.CLASSES)
    names = set(model.state_dict())
    fakequant.fake_quantize(model)
    model.train()(torch.stack([some(modality)] * 2))
    plain = Classifier(Encoder(modality, tiny.SHAPE), tiny.CLASSES)
    for network in (plain, integer.to_integers(model.eval())):
        found = {parts.part(name, network) for name in network.state_dict()}
        assert {"encoder_weights", "norms", "head"} <= found <= set(parts.PARTS)
        assert found & {"embeddings", "frontend"}
        assert parts.part("MatMul_17.output", network) is None
    assert names


def some(modality: Modality) -> torch.Tensor:
    """Any input that the frontend reads."""
    shapes = {"Vision": (1, 16, 16), "Speech": (50, 16), "Text": (24,)}
    x = torch.rand(shapes[type(modality).__name__])
    return x if x.dim() > 1 else (x * 100).long()
