import math

import pytest
import tiny
import torch

from winnow.compress.teaching import distillation_loss
from winnow.data.vision import Vision
from winnow.ssl.classification import accuracy, label_loss, predict


def softmax(row: list[float], temperature: float) -> list[float]:
    weights = [math.exp(value / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.5])
def test_the_distillation_loss_is_the_divergence_of_a_naive_loop(temperature: float) -> None:
    student = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 3
    teacher = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)) * 3
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        pairs = zip(softmax(s, temperature), softmax(t, temperature), strict=True)
        total += sum(q * math.log(q / p) for p, q in pairs)
    expected = temperature**2 * total / 7
    assert float(distillation_loss(student, teacher, temperature)) == pytest.approx(expected, 1e-4)


def test_a_student_that_agrees_has_no_distillation_loss() -> None:
    logits = torch.randn(4, 3)
    assert float(distillation_loss(logits, logits + 5, 2.0)) == pytest.approx(0, abs=1e-6)


def test_labels_count_where_there_are_any() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    some = label_loss(logits, torch.tensor([1, -1, -1, 2]), 0.0)
    rows = torch.log_softmax(logits, 1)
    assert float(some) == pytest.approx(-float(rows[0, 1] + rows[3, 2]) / 2, rel=1e-5)
    assert float(label_loss(logits, torch.full((4,), -1), 0.1)) == 0


def test_the_teacher_gets_no_gradient_and_does_not_move() -> None:
    teacher = tiny.classifier(1)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    method = tiny.taught(tiny.classifier(), teacher)
    trainer = tiny.fit(method, 4)
    for name, tensor in method.teacher.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not method.teacher.training
    assert all(name.startswith("student.") for name in method.state_dict())
    optimized = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(parameter) for parameter in method.student.parameters()}


def test_the_student_trains_with_its_dropout_on() -> None:
    method = tiny.taught(tiny.classifier(), tiny.classifier(1))
    assert all(module.training for module in method.student.modules())


def test_unlabelled_samples_teach_through_the_teacher_alone() -> None:
    batch = tiny.samples(16)
    unlabelled = batch._replace(label=torch.full_like(batch.label, -1))
    method = tiny.taught(tiny.classifier(), tiny.classifier(1))
    method.eval()
    loss = method.loss(unlabelled)
    loss.backward()
    logits, wanted = predict(method.student, batch.x, 16), predict(method.teacher, batch.x, 16)
    assert loss.item() == pytest.approx(0.5 * float(distillation_loss(logits, wanted, 2.0)), 1e-5)
    assert float(method.student.head.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_a_student_becomes_its_teacher() -> None:
    teacher = tiny.classifier(1)
    tiny.fit(tiny.taught(teacher, tiny.classifier(2)), 120)
    student = tiny.classifier()
    tiny.fit(tiny.taught(student, teacher), 120)
    batch = tiny.samples(200, seed=999)
    wanted = predict(teacher, batch.x, 64)
    assert accuracy(wanted, batch.label) > 0.9
    assert accuracy(predict(student, batch.x, 64), wanted.argmax(1)) > 0.9


def test_two_runs_are_the_same() -> None:
    runs = [tiny.taught(tiny.classifier(), tiny.classifier(1)) for _ in range(2)]
    for run in runs:
        tiny.fit(run, 5)
    first, second = (run.student.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_refuses_a_teacher_of_other_classes_or_other_samples() -> None:
    other = tiny.classifier(1)
    other.classes = ["up", "down", "left"]
    with pytest.raises(ValueError, match=r"teacher knows the classes .*'up'"):
        tiny.taught(tiny.classifier(), other)
    student = tiny.classifier()
    student.encoder.modality = Vision(size=16, patch=4, channels=1)
    with pytest.raises(ValueError, match="the student reads"):
        tiny.taught(student, tiny.classifier(1))


def test_accuracy_is_of_labelled_samples() -> None:
    logits = torch.eye(3)[[0, 1, 2, 0]]
    assert accuracy(logits, torch.tensor([0, 2, -1, -1])) == 0.5
    with pytest.raises(ValueError, match="no sample has a label"):
        accuracy(logits, torch.full((4,), -1))
