from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from tiny_trunk import SHAPE

from winnow.compress import fakequant, integer, steps
from winnow.compress.sparsity import prunable
from winnow.ssl.model import Classifier

# Of `tiny.classifier`: four tokens of 16, two layers with 32 channels, patches of 16 pixels, three classes.
TOKENS, DIM, CHANNELS, LAYERS, CLASSES = 4, 16, 32, 2, 3
MATRICES = 4 * DIM * DIM + 2 * DIM * CHANNELS  # weights of a layer
ATTENTION = 2 * TOKENS * TOKENS * DIM  # scores, and what they mix
REST = TOKENS * 16 * DIM + DIM * CLASSES  # frontend and head


@pytest.fixture(scope="module")
def sparse() -> Classifier:
    model = tiny.classifier()
    tiny.sparsify(model)
    return model


@pytest.fixture(scope="module")
def integers(sparse: Classifier) -> Classifier:
    model = tiny.classifier()
    model.load_state_dict(sparse.state_dict())
    fakequant.fake_quantize(model)
    model.train()(tiny.samples(8).x)
    return integer.to_integers(model.eval())


def test_the_work_of_a_prediction_is_that_of_the_formula() -> None:
    assert (SHAPE.dim, SHAPE.layers, SHAPE.dim * SHAPE.mlp_ratio) == (DIM, LAYERS, CHANNELS)
    done = steps.work(tiny.classifier(), tiny.samples(1).x)
    assert done.multiply_adds == LAYERS * (TOKENS * MATRICES + ATTENTION) + REST
    assert set(done.rows.values()) == {TOKENS} and len(done.rows) == 6 * LAYERS


def test_the_work_that_is_kept_leaves_out_the_zeros_and_nothing_else(sparse: Classifier) -> None:
    done = steps.work(sparse, tiny.samples(1).x)
    kept = done.without(steps.zeros(sparse, done.rows))
    assert kept == LAYERS * (TOKENS * MATRICES // 4 + ATTENTION) + REST


def test_counting_leaves_a_model_as_it_was(sparse: Classifier) -> None:
    before = {name: tensor.clone() for name, tensor in sparse.state_dict().items()}
    steps.work(sparse, tiny.samples(1).x)
    assert not any(module._forward_hooks for module in sparse.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in sparse.state_dict().items())


def test_every_model_is_weighed(sparse: Classifier, integers: Classifier) -> None:
    dense = tiny.classifier()
    found = steps.weigh({"teacher": dense, "sparse": sparse}, integers, sparse, tiny.samples(3).x)
    assert found["teacher_parameters"] == sum(p.numel() for p in dense.parameters())
    pruned = LAYERS * MATRICES * 3 // 4
    assert found["teacher_nonzeros"] - found["sparse_nonzeros"] == pruned
    assert found["int8_parameters"] == found["sparse_parameters"] == found["teacher_parameters"]
    assert found["int8_nonzeros"] <= found["sparse_nonzeros"]  # rounding makes zeros, and never takes one
    assert (
        found["int8_multiply_adds"] == found["teacher_multiply_adds"] == found["teacher_multiply_adds_kept"]
    )
    assert found["int8_multiply_adds_kept"] <= found["sparse_multiply_adds_kept"]
    assert found["teacher_multiply_adds"] - found["sparse_multiply_adds_kept"] == TOKENS * pruned


def test_layers_hold_what_is_zero_and_what_was_scanned(
    sparse: Classifier, integers: Classifier, tmp_path: Path
) -> None:
    plain = steps.layers(sparse, integers, tmp_path)
    assert list(plain) == ["name", "weights", "sparsity", "int8_sparsity"]
    assert list(plain["name"]) == list(prunable(sparse))
    assert set(plain["sparsity"]) == {0.75} and (plain["int8_sparsity"] >= 0.75).all()
    scan = pd.DataFrame({"name": plain["name"][::-1], "sparsity": 0.1, "loss_at_0.5": range(len(plain))})
    scan.to_csv(tmp_path / "layers.csv", index=False)
    found = steps.layers(sparse, integers, tmp_path)
    assert set(found["sparsity"]) == {0.75}  # measured, not read
    assert list(found["loss_at_0.5"]) == list(range(len(plain)))[::-1]


def test_training_is_every_history_in_order_with_what_came_before_a_transfer(tmp_path: Path) -> None:
    folders = {name: tmp_path / stage for name, stage in (("teacher", "finetune"), ("sparse", "transfer"))}
    for folder in folders.values():
        folder.mkdir()
    folders["int8"] = tmp_path / "made-by-hand"
    (tmp_path / "finetune/history.csv").write_text("step,loss,odd,samples\n1,0.5,7,32\n2,0.25,7,64\n")
    (tmp_path / "transfer/history.csv").write_text("step,loss\n3,0.1\n")
    (tmp_path / "transfer/sparsify.csv").write_text("step,sparsity\n9,0.8\n")
    found = steps.training(folders)
    assert list(zip(found["model"], found["stage"], found["step"], strict=True)) == [
        ("teacher", "finetune", 1),
        ("teacher", "finetune", 2),
        ("sparse", "sparsify", 9),
        ("sparse", "transfer", 3),
    ]
    assert set(found) == {"model", "stage", "step", "samples", "loss", "sparsity"}
    assert found["samples"].dropna().tolist() == [32, 64]
    assert steps.training({}).empty
