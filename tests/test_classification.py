from pathlib import Path

import pytest
import tiny
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional
from torch.utils.data import DataLoader

from winnow.data.batches import UNLABELLED, Batch
from winnow.ssl import model as models
from winnow.ssl.classification import Classification, accuracy, label_loss, pooled, predict, solve_head

# Lightning's own use of torch; the stages hide it from their users in the same way.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


def method(root: Path, dropout: float = 0.0, smoothing: float = 0.0) -> Classification:
    root.mkdir()
    start = tiny.classifier()
    models.save(start.encoder, root)
    return Classification(
        start.encoder.modality, tiny.CLASSES, root, dropout, smoothing, tiny.OPTIMIZATION, seed=0
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_cross_entropy_of_the_labelled(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(5, 3), torch.tensor([0, UNLABELLED, 2, UNLABELLED, 1])
    terms = []
    for row, wanted in zip(logits, label.tolist(), strict=True):
        if wanted != UNLABELLED:
            logs = row - row.exp().sum().log()
            terms.append(-(1 - smoothing) * logs[wanted] - smoothing * logs.mean())
    torch.testing.assert_close(label_loss(logits, label, smoothing), sum(terms) / torch.tensor(3.0))


def test_the_loss_is_torchs_where_all_have_labels() -> None:
    logits, label = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    wanted = functional.cross_entropy(logits, label, label_smoothing=0.2)
    torch.testing.assert_close(label_loss(logits, label, 0.2), wanted)


def test_a_batch_without_labels_costs_nothing_and_moves_nothing() -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    loss = label_loss(logits, torch.full((5,), UNLABELLED), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def test_accuracy_counts_the_labelled_alone() -> None:
    logits = torch.eye(3)[[0, 1, 2, 2]]
    assert accuracy(logits, torch.tensor([0, 1, 0, UNLABELLED])) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no sample has a label"):
        accuracy(logits, torch.full((4,), UNLABELLED))


def test_prediction_is_in_evaluation_mode_and_does_not_depend_on_the_batch_size() -> None:
    model, x = tiny.classifier().train(), tiny.samples(7).x
    wanted = predict(model, x, 7)
    assert torch.equal(wanted, predict(model, x, 7))
    torch.testing.assert_close(predict(model, x, 3), wanted)
    assert not wanted.requires_grad


def test_starts_from_the_encoder_in_training_mode_with_the_asked_dropout(tmp_path: Path) -> None:
    training = method(tmp_path / "a", dropout=0.4)
    assert all(module.training for module in training.modules())
    trunk = training.classifier.encoder
    assert {layer.dropout.p for layer in trunk.layers} == {0.4}
    start = tiny.classifier().encoder.state_dict()
    assert all(torch.equal(start[name], value) for name, value in trunk.state_dict().items())


def test_dropout_is_active_while_training_and_not_while_validating(tmp_path: Path) -> None:
    """The modes are seen from inside the layers, at every forward pass of a run."""
    training = method(tmp_path / "a", dropout=0.4)
    seen: list[tuple[bool, bool]] = []
    for layer in training.classifier.encoder.layers:
        layer.register_forward_hook(
            lambda module, given, out: seen.append((torch.is_grad_enabled(), module.training))
        )
    rows = [tiny.samples(8, seed=i) for i in range(6)]
    loaders = [DataLoader(part, batch_size=None) for part in (rows, rows[:1])]  # type: ignore[arg-type]
    trainer = tiny.trainer(6)
    trainer.val_check_interval = 2
    trainer.fit(training, *loaders)
    assert set(seen) == {(True, True), (False, False)}
    # The first batch after a validation trains in training mode again.
    assert seen.index((False, False)) < len(seen) - 1 - seen[::-1].index((True, True))


def test_learns_what_can_be_learned(tmp_path: Path) -> None:
    training = method(tmp_path / "a", dropout=0.1, smoothing=0.1)
    rows = [tiny.samples(32, seed=i) for i in range(80)]
    held_out = tiny.samples(200, seed=1000)
    before = accuracy(predict(training.classifier, held_out.x, 64), held_out.label)
    training.train()
    loaders = [DataLoader(part, batch_size=None) for part in (rows, rows[:1])]  # type: ignore[arg-type]
    tiny.trainer(80).fit(training, *loaders)
    after = accuracy(predict(training.classifier, held_out.x, 64), held_out.label)
    assert before < 0.7 < 0.95 < after


def test_validation_reports_accuracy_and_loss_over_all_samples_however_they_are_batched(
    tmp_path: Path,
) -> None:
    training = method(tmp_path / "a")
    whole = tiny.samples(20, seed=3)
    parts = [Batch(whole.x[i:j], whole.label[i:j]) for i, j in ((0, 13), (13, 20))]
    trainer = tiny.trainer(1)
    loader = DataLoader(parts, batch_size=None)  # type: ignore[arg-type]
    (seen,) = trainer.validate(training, loader, verbose=False)
    logits = predict(training.classifier, whole.x, 20)
    assert seen["val/accuracy"] == pytest.approx(accuracy(logits, whole.label))
    wanted = functional.cross_entropy(logits, whole.label).item()
    assert seen["val/loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_solved_head_is_the_logistic_regression_of_the_labelled() -> None:
    torch.manual_seed(0)
    label = torch.arange(90) % 3
    x = torch.randn(90, 5) * torch.tensor([1.0, 5.0, 0.1, 1.0, 1.0]) + torch.eye(3, 5)[label] + 7
    blank = torch.where(torch.arange(90) < 15, UNLABELLED, label)
    head = torch.nn.Linear(5, 3)
    solve_head(head, x, blank, 2.0)
    scale = StandardScaler().fit(x)
    regression = LogisticRegression(C=2.0, tol=1e-8, max_iter=1000)
    regression.fit(scale.transform(x)[15:], label[15:])
    wanted = torch.tensor(regression.predict_proba(scale.transform(x)), dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(head(x).softmax(1), wanted, atol=0.01, rtol=0)


def test_what_a_head_reads_is_what_the_classifier_gives_it() -> None:
    model, x = tiny.classifier().train(), tiny.samples(7).x
    logits = predict(model, x, 7)
    with torch.no_grad():
        torch.testing.assert_close(model.head(pooled(model.encoder.train(), x, 3)), logits)
