from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from winnow.compress.callbacks import PatternLock
from winnow.compress.sparsity import lock, prunable
from winnow.compress.transfer import Transferred
from winnow.ssl import model as models


@pytest.fixture
def method(tmp_path: Path) -> Transferred:
    """A network of which every second weight of the layers is zero, and a teacher that has all."""
    teacher, sparse = tmp_path / "teacher", tmp_path / "sparse"
    for folder in (teacher, sparse):
        folder.mkdir()
    models.save(tiny.classifier(), teacher)
    encoder = tiny.classifier(1).encoder
    with torch.no_grad():
        for weight in prunable(encoder).values():
            weight.view(-1)[::2] = 0
    models.save(encoder, sparse)
    modality = encoder.modality
    settings: dict[str, Any] = {"distillation": tiny.DISTILLATION, "optimization": tiny.OPTIMIZATION}
    return Transferred(modality, tiny.CLASSES, teacher, sparse, dropout=0.3, **settings, seed=0)


def test_starts_as_the_sparse_encoder_with_a_head_and_a_dropout_of_its_own(method: Transferred) -> None:
    wanted = tiny.classifier(1).encoder.state_dict()
    for name, weight in method.student.encoder.state_dict().items():
        alive = weight != 0
        assert torch.equal(weight[alive], wanted[name][alive])
    assert {layer.dropout.p for layer in method.student.encoder.layers} == {0.3}


def test_a_locked_pattern_outlives_momentum_and_weight_decay(method: Transferred) -> None:
    before = lock(method.student)
    assert {float(keep.double().mean()) for keep in before.values()} == {0.5}
    tiny.fit(method, 12, PatternLock("student"))
    assert all(torch.equal(keep, lock(method.student)[name]) for name, keep in before.items())


def test_without_the_lock_zeros_come_back(method: Transferred) -> None:
    before = lock(method.student)
    tiny.fit(method, 2)
    assert any(not torch.equal(keep, lock(method.student)[name]) for name, keep in before.items())
