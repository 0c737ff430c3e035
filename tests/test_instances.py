import math

import pytest
import torch
from torch import Tensor

from winnow.ssl.instances import Instances, InstanceShape

SHAPE = InstanceShape(weight=1.0, temperature=0.5, layers=2, ratio=2.0, dim=4)
SAMPLE = torch.tensor([0, 0, 1, 1])


def cost(views: Tensor, sample: Tensor = SAMPLE) -> Tensor:
    return Instances(8, SHAPE).cost(views, sample, views, sample, torch.arange(len(views)))


def test_views_that_are_all_alike_cost_what_guessing_costs() -> None:
    alike = torch.tensor([1.0, 0, 0, 0]).expand(4, -1)
    torch.testing.assert_close(cost(alike), torch.full((4,), math.log(3)))


def test_views_of_a_sample_that_are_near_cost_less_than_those_that_are_far() -> None:
    east, north = torch.eye(4)[:2]
    near, far = torch.stack([east, east, north, north]), torch.stack([east, north, east, north])
    # Similarity 1 over temperature 0.5 against two others of similarity 0.
    torch.testing.assert_close(cost(near), torch.full((4,), math.log(1 + 2 * math.exp(-2))))
    assert (cost(far) > cost(near)).all()


def test_several_partners_are_asked_for_in_equal_shares() -> None:
    views = torch.nn.functional.normalize(
        torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), dim=1
    )
    found = cost(views, torch.tensor([0, 0, 0, 1, 1]))
    scores = views[0] @ views[1:].T / 0.5
    torch.testing.assert_close(found[0], -scores.log_softmax(0)[:2].mean())


def test_a_view_does_not_find_itself() -> None:
    views = torch.eye(4)
    views.requires_grad_()
    scores = torch.stack([views[0] @ views[i] / 0.5 for i in (1, 2, 3)])
    torch.testing.assert_close(cost(views)[0], -scores.log_softmax(0)[0])
    cost(views).sum().backward()
    assert views.grad is not None and views.grad.isfinite().all()


def test_a_sample_of_one_view_costs_nothing() -> None:
    found = cost(torch.eye(4), torch.tensor([0, 0, 1, 2]))
    assert (found[:2] > 0).all() and not found[2:].any()


def test_views_of_other_processes_are_among_those_to_be_told_from() -> None:
    generator = torch.Generator().manual_seed(0)
    views = torch.nn.functional.normalize(torch.randn(8, 4, generator=generator), dim=1)
    sample = torch.arange(4).repeat_interleave(2)
    whole = cost(views, sample)
    instances = Instances(8, SHAPE)
    for rank in (0, 1):
        own = torch.arange(4) + 4 * rank
        torch.testing.assert_close(instances.cost(views[own], sample[own], views, sample, own), whole[own])


def test_vectors_have_length_1() -> None:
    torch.manual_seed(0)
    found = Instances(8, SHAPE)(torch.randn(3, 8))
    assert found.shape == (3, 4)
    assert found.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
