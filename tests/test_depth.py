import pytest
import tiny
import torch

from winnow.compress.depth import shallower


def test_a_student_of_all_layers_is_the_teacher() -> None:
    teacher = tiny.classifier().encoder
    student = shallower(teacher, [0, 1]).eval()
    x = tiny.samples(8).x
    assert torch.equal(student.embed(x), teacher.embed(x))


def test_a_student_has_the_chosen_layers_and_weights_of_its_own() -> None:
    teacher = tiny.classifier().encoder
    student = shallower(teacher, [1])
    assert student.shape.layers == 1
    assert torch.equal(student.layers[0].fc1.weight, teacher.layers[1].fc1.weight)
    with torch.no_grad():
        student.layers[0].fc1.weight.zero_()
    assert teacher.layers[1].fc1.weight.any()
    assert teacher.shape.layers == len(teacher.layers) == 2


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0], [0, 2], [-1]])
def test_refuses_layers_that_are_not_there(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="must ascend within 0 to 1"):
        shallower(tiny.classifier().encoder, layers)
