import math
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from conftest import KINDS
from tiny_trunk import SHAPE, some_samples
from torch import Tensor
from torch.nn import functional

from winnow.compress import fakequant, imitation
from winnow.compress.imitation import Inside, Latents, Relations, look, relation_loss
from winnow.compress.teaching import Distillation, distillation_loss
from winnow.data.modality import Modality
from winnow.ssl.classification import label_loss
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

WIDE = replace(SHAPE, dim=32, layers=3, heads=4)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inside(dim: int, layers: int, seed: int, valid: Tensor, extra: int = 0) -> Inside:
    """Make up what goes on in a network of some width."""
    batch, token = valid.shape
    hidden = [numbers(batch, token, dim, seed=seed + n) for n in range(layers)]
    projected = [numbers(batch, extra + token, dim, seed=seed + 100 + n) for n in range(3)]
    return Inside(numbers(batch, 2), hidden, valid, projected)


def rows(*lengths: int) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def softmax(scores: list[float]) -> list[float]:
    weights = [math.exp(score) for score in scores]
    return [weight / sum(weights) for weight in weights]


def naive_relations(x: Tensor, length: int, heads: int) -> list[list[list[float]]]:
    """Give, for each head and token of one sample, the distribution over its tokens."""
    width = x.shape[1] // heads
    found = []
    for head in range(heads):
        part = x[:length, head * width : (head + 1) * width].tolist()
        found.append(
            [
                softmax([sum(a * b for a, b in zip(one, other, strict=True)) / width**0.5 for other in part])
                for one in part
            ]
        )
    return found


@pytest.mark.parametrize("extra", [0, 1])
def test_the_relation_loss_is_the_divergence_of_a_naive_loop(extra: int) -> None:
    lengths, heads = [3, 5], 2
    student, teacher = inside(8, 1, 0, rows(*lengths), extra), inside(12, 1, 50, rows(*lengths), extra)
    total = 0.0
    for own, wanted in zip(student.projected, teacher.projected, strict=True):
        for sample, length in enumerate(lengths):
            length += extra
            pairs = zip(
                naive_relations(wanted[sample], length, heads),
                naive_relations(own[sample], length, heads),
                strict=True,
            )
            cost = sum(
                p * math.log(p / q)
                for told, found in pairs
                for told_row, found_row in zip(told, found, strict=True)
                for p, q in zip(told_row, found_row, strict=True)
            )
            total += cost / (heads * length) / (3 * len(lengths))
    assert float(relation_loss(student, teacher, heads)) == pytest.approx(total, rel=1e-4)


def test_the_latent_loss_is_the_error_of_a_naive_loop() -> None:
    lengths = [2, 4]
    student, teacher = inside(16, 2, 0, rows(*lengths)), inside(32, 3, 50, rows(*lengths))
    torch.manual_seed(0)
    latents = Latents(tiny.classifier().encoder, tiny.classifier(shape=WIDE).encoder)
    assert latents.teachers == [0, 2]
    total = 0.0
    with torch.no_grad():
        for number, x in enumerate(student.hidden):
            wanted = teacher.hidden[(0, 2)[number]]
            for sample, length in enumerate(lengths):
                for token in range(length):
                    own = functional.layer_norm(x[sample, token], (16,))
                    own = latents.projections[number](own)
                    error = own - functional.layer_norm(wanted[sample, token], (32,))
                    total += float(error.square().mean()) / length / (2 * len(lengths))
        assert float(latents(student, teacher)) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [(3, 4, [0, 1, 3]), (2, 2, [0, 1]), (2, 12, [5, 11]), (1, 4, [3]), (3, 2, [0, 0, 1])],
)
def test_layers_learn_evenly_and_the_last_from_the_last(
    student: int, teacher: int, expected: list[int]
) -> None:
    assert imitation.teachers_of(student, teacher) == expected


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    model, x = tiny.classifier(), tiny.samples(8).x
    with torch.no_grad():
        seen = look(model, x, -1)
    assert float(Latents(model.encoder, model.encoder)(seen, seen)) == 0
    assert float(relation_loss(seen, seen, 2)) == pytest.approx(0, abs=1e-6)
    assert torch.equal(seen.logits, model(x))


def test_what_is_kept_are_queries_keys_and_values_and_no_hook_stays() -> None:
    model, x = tiny.classifier().requires_grad_(False), tiny.samples(4).x
    fakequant.fake_quantize(model)
    model.train()(x)
    model.eval()
    given: list[Tensor] = []
    attention = model.encoder.layers[1].attention  # type: ignore[union-attr]
    hook = attention.register_forward_pre_hook(lambda module, given_: given.append(given_[0]))
    seen = look(model, x, 1)
    hook.remove()
    for name, found in zip(("query", "key", "value"), seen.projected, strict=True):
        part = attention.get_submodule(name)
        assert torch.equal(found, part(given[0]))
        assert not part._forward_hooks
    assert look(model, x, None).projected == []


@pytest.mark.parametrize("kind", [KINDS[2]], ids=["text"], indirect=True)
def test_padding_does_not_matter(modality: Modality, ingested: Any) -> None:
    x = some_samples(modality, ingested, 6)
    torch.manual_seed(0)
    models = [Classifier(Encoder(modality, shape), ["a", "b"]).eval() for shape in (SHAPE, WIDE)]
    latents = Latents(models[0].encoder, models[1].encoder).requires_grad_(False)
    with torch.no_grad():
        student, teacher = (look(model, x, -1) for model in models)
    assert not bool(student.valid.all())
    before = float(relation_loss(student, teacher, 4)), float(latents(student, teacher))
    for one, seed in ((student, 1), (teacher, 2)):
        for tensor in (*one.hidden, *one.projected):
            tensor[~one.valid] = 9 * numbers(*tensor[~one.valid].shape, seed=seed)
    after = float(relation_loss(student, teacher, 4)), float(latents(student, teacher))
    assert after == pytest.approx(before, rel=1e-6)


def distillation(**changed: Any) -> Distillation:
    return replace(tiny.DISTILLATION, **changed)


@pytest.mark.parametrize(
    "changed", [{"latents": 1.0}, {"relations": Relations(weight=1.0, heads=2, layer=1)}]
)
def test_the_student_learns_its_teachers_inside_and_the_teacher_stays(changed: dict[str, Any]) -> None:
    teacher = tiny.classifier(1, WIDE)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    method = tiny.taught(tiny.classifier(), teacher, distillation=distillation(weight=0.0, **changed))
    plain = tiny.taught(tiny.classifier(), tiny.classifier(1, WIDE), distillation=distillation(weight=0.0))
    batch = tiny.samples(64, seed=999)

    def apart(one: Any) -> float:
        with torch.no_grad():
            student, told = look(one.student.eval(), batch.x, -1), look(one.teacher, batch.x, 1)
            return float(
                relation_loss(student, told, 2) if method.latents is None else method.latents(student, told)
            )

    trainer = tiny.fit(method, 60)
    tiny.fit(plain, 60)
    assert apart(method) < 0.7 * apart(plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    optimized = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(parameter) for parameter in method.parameters()}
    assert set(method.kept.state_dict()) == set(tiny.classifier().state_dict())


def test_off_there_is_nothing_but_answers_and_labels() -> None:
    batch, student, teacher = tiny.samples(16), tiny.classifier(), tiny.classifier(1)
    method = tiny.taught(student, teacher).eval()
    logits, wanted = student(batch.x), teacher(batch.x)
    expected = 0.5 * distillation_loss(logits, wanted, 2.0) + 0.5 * label_loss(logits, batch.label, 0.0)
    assert torch.equal(method.loss(batch), expected)
    assert method.latents is None


def test_refuses_what_cannot_be_compared() -> None:
    teacher = tiny.classifier(1, WIDE)
    wrong = [
        (Relations(weight=1.0, heads=3, layer=0), "heads 3 does not divide the student's width 16"),
        (Relations(weight=1.0, heads=2, layer=3), "layer is 3; the teacher has 3 layers"),
    ]
    for relations, message in wrong:
        with pytest.raises(ValueError, match=message):
            tiny.taught(tiny.classifier(), teacher, distillation=distillation(relations=relations))
    skipping = tiny.classifier(shape=replace(SHAPE, drop_layer=0.1))
    with pytest.raises(ValueError, match=r"a student without shape\.drop_layer"):
        tiny.taught(skipping, teacher, distillation=distillation(latents=1.0))
    with pytest.raises(ValueError, match=r"distillation\.latents must be 0 or more, not -1"):
        distillation(latents=-1.0)
