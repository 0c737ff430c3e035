from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from winnow.data.batches import UNLABELLED, Batch, Variants
from winnow.ssl import arms, gains
from winnow.ssl import model as models
from winnow.ssl.arms import Arm
from winnow.ssl.classification import Classification

CLASSES, ROWS, ASKED = 4, 400, 200
NUMBER = 300  # of samples to fine-tune on
SETTINGS: dict[str, Any] = {"classes": CLASSES, "inverse_penalty": 3.0, "rows": 10_000, "seeds": range(4)}
ROUGH: dict[str, Any] = {
    "inverse_penalty": 1.0,
    "variants": Variants(number=1, strength=1.0),
    "batch_size": 8,
    "steps": 4,
    "gradient_clip": 1.0,
    "accelerator": "cpu",
}


def clouds(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of classes that overlap a little, and the classes: rows to learn from, then samples to ask."""
    random = np.random.default_rng(seed)
    truth = random.integers(CLASSES, size=ROWS + ASKED)
    return np.eye(CLASSES, 8)[truth] * 3 + random.normal(0, 1, (ROWS + ASKED, 8)), truth


def planted(truth: np.ndarray, share: float = 0.4) -> np.ndarray:
    """Take many labels for their successors: so confused, a linear model is led astray."""
    wrong = np.random.default_rng(1).random(len(truth)) < share
    return np.where(wrong, (truth + 1) % CLASSES, truth)


def measured(*after: np.ndarray) -> dict[str, Any]:
    """Measure rounds of labels by a probe: a table of gains, and one of recovery."""
    vectors, truth = clouds()
    given = planted(truth[:ROWS])
    plan = arms.plan(given, dict(enumerate(after, 1)), truth[:ROWS])
    correct = arms.probe(plan.arms, vectors[:ROWS], vectors[ROWS:], truth[ROWS:], **SETTINGS)
    found = gains.describe("probe", plan, correct, np.arange(ASKED))
    return {
        "gains": {(one["arm"], one["against"]): one for one in found["gains"]},
        "recovery": {one["arm"]: one for one in found["recovery"]},
        "mean": {arm["arm"]: arm["mean"] for arm in found["arms"]},
    }


def test_perfect_cleaning_gains_what_the_truth_gains_and_random_drop_nothing() -> None:
    _, truth = clouds()
    given = planted(truth[:ROWS])
    dropped = np.where(given == truth[:ROWS], given, UNLABELLED)
    found = measured(dropped, truth[:ROWS])
    judged = found["gains"]
    for arm in ("round@1", "round@2", "oracle"):
        assert judged[arm, "delivered"]["verdict"] == "gain"
    assert judged["round@1", "random_drop@1"]["verdict"] == "gain"
    assert judged["random_drop@1", "delivered"]["verdict"] != "gain"
    assert max(found["mean"].values()) <= found["mean"]["oracle"] + 0.01
    assert found["recovery"]["round@1"]["value"] == pytest.approx(1.0, abs=0.15)
    assert found["recovery"]["round@2"] == {
        "arm": "round@2", "status": "ok", "reason": "",
        "value": 1.0, "low": pytest.approx(1.0, abs=1e-5), "high": pytest.approx(1.0, abs=1e-5),
    }  # fmt: skip


def test_where_nothing_changed_the_gain_is_exactly_zero() -> None:
    _, truth = clouds()
    found = measured(planted(truth[:ROWS]))
    assert found["gains"]["round@1", "delivered"] == {
        "arm": "round@1", "against": "delivered",
        "value_points": 0.0, "low_points": 0.0, "high_points": 0.0, "verdict": "no measurable gain",
    }  # fmt: skip
    assert found["recovery"]["round@1"]["value"] == found["recovery"]["round@1"]["high"] == 0.0
    assert ("random_drop@1", "delivered") not in found["gains"]


def test_spoiling_the_labels_is_called_a_loss() -> None:
    _, truth = clouds()
    worse = planted(truth[:ROWS], share=0.7)
    found = measured(worse)
    assert found["gains"]["round@1", "delivered"]["verdict"] == "loss"
    assert found["recovery"]["round@1"]["value"] < 0


def test_a_control_drops_as_many_at_random_as_its_round_and_others_with_every_seed() -> None:
    delivered = np.arange(100) % 3
    delivered[::10] = UNLABELLED
    after = np.where(np.arange(100) < 25, UNLABELLED, delivered)
    control = arms.plan(delivered, {1: after}, None).arms[2]
    assert control.name == "random_drop@1"
    taught = [control.taught(seed) for seed in range(5)]
    for labels in taught:
        assert (labels != UNLABELLED).sum() == (after != UNLABELLED).sum() == control.learned
        left = labels != UNLABELLED
        np.testing.assert_array_equal(labels[left], delivered[left])
    assert len({labels.tobytes() for labels in taught}) == 5
    np.testing.assert_array_equal(control.taught(0), taught[0])


def test_of_one_seed_the_larger_drop_contains_the_smaller() -> None:
    small, large = (Arm("random_drop@1", np.zeros(50, int), number).taught(3) for number in (5, 20))
    assert (large[small == UNLABELLED] == UNLABELLED).all()


def test_a_round_that_drops_nothing_has_no_control_and_known_labels_no_oracle() -> None:
    labels = np.array([0, 1, 0])
    plan = arms.plan(labels, {1: np.array([0, 0, 0])}, labels.copy())
    assert [arm.name for arm in plan.arms] == ["delivered", "round@1"]
    assert plan.absent == {
        "random_drop@1": "the round dropped nothing",
        "oracle": "no label is known to be wrong",
    }
    assert arms.plan(labels, {}, None).absent == {"oracle": "the true labels are not known"}


def test_the_last_round_alone_keeps_its_own_controls() -> None:
    labels, dropped = np.array([0, 1, 0]), np.array([0, 1, UNLABELLED])
    plan = arms.plan(labels, {1: dropped, 2: labels}, np.array([0, 1, 1])).only(2)
    assert [arm.name for arm in plan.arms] == ["delivered", "round@2", "oracle"]
    assert set(plan.absent) == {"random_drop@2"}


def test_equal_labels_get_equal_samples_right_and_seeds_differ() -> None:
    vectors, truth = clouds()
    given = planted(truth[:ROWS])
    pair = [Arm("delivered", given), Arm("round@1", given.copy())]
    correct = arms.probe(pair, vectors[:ROWS], vectors[ROWS:], truth[ROWS:], **SETTINGS)
    np.testing.assert_array_equal(correct[0], correct[1])
    assert len({rows.tobytes() for rows in correct[0]}) == 4
    again = arms.probe(pair[:1], vectors[:ROWS], vectors[ROWS:], truth[ROWS:], **SETTINGS)
    np.testing.assert_array_equal(correct[:1], again)


def test_a_row_that_no_seed_draws_teaches_nothing() -> None:
    """A cap on the rows holds for all arms alike: what is not drawn may be labelled as it likes."""
    vectors, truth = clouds()
    settings = {**SETTINGS, "rows": 60, "seeds": [7]}
    drawn = np.random.default_rng([7, 0]).integers(ROWS, size=60)
    other = np.where(np.isin(np.arange(ROWS), drawn), truth[:ROWS], (truth[:ROWS] + 1) % CLASSES)
    pair = [Arm("delivered", truth[:ROWS]), Arm("round@1", other)]
    one, two = arms.probe(pair, vectors[:ROWS], vectors[ROWS:], truth[ROWS:], **settings)
    np.testing.assert_array_equal(one, two)
    assert one.mean() > 0.6


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    models.save(tiny.classifier().encoder, folder)
    return folder


def finetuned(
    encoder: Path, every: list[Arm], rows: np.ndarray | None = None, **changes: object
) -> np.ndarray:
    samples, test = tiny.samples(NUMBER), tiny.samples(60, seed=1)
    modality = tiny.classifier().encoder.modality

    def make(seed: int) -> Classification:
        return tiny.classification(encoder, dropout=0.1, label_smoothing=0.1, seed=seed)

    chosen = np.arange(NUMBER) if rows is None else rows
    held = Batch(samples.x[chosen], torch.full((len(chosen),), UNLABELLED), torch.arange(len(chosen)))
    settings = {**ROUGH, "seeds": [0, 1], **changes}
    return arms.finetune(every, make, modality, held, chosen, test, **settings)


def test_fine_tuning_learns_from_the_labels_of_the_arm(encoder: Path) -> None:
    right = tiny.samples(NUMBER).label.numpy()
    turned = (right + 1) % 3
    correct = finetuned(encoder, [Arm("delivered", turned), Arm("oracle", right)], steps=40, seeds=range(6))
    assert correct[0].mean() < 1 / 3  # of guessing
    assert correct[1].mean() > correct[0].mean() + 0.2


def test_fine_tuned_arms_of_equal_labels_are_the_same_to_the_bit(encoder: Path) -> None:
    right = tiny.samples(NUMBER).label.numpy()
    dropped = np.where(np.arange(NUMBER) < 20, UNLABELLED, right)
    correct = finetuned(encoder, [Arm("a", right), Arm("b", dropped), Arm("c", right)])
    np.testing.assert_array_equal(correct[0], correct[2])
    np.testing.assert_array_equal(correct[:2], finetuned(encoder, [Arm("a", right), Arm("b", dropped)]))


def test_what_is_dropped_may_have_had_any_label(encoder: Path) -> None:
    """And rows that no run can reach need not be there."""
    right = tiny.samples(NUMBER).label.numpy()
    rows = np.arange(0, NUMBER, 2)
    other = np.where(np.arange(NUMBER) % 2, 0, right)
    correct = finetuned(encoder, [Arm("a", right), Arm("b", other)], rows)
    np.testing.assert_array_equal(correct[0], correct[1])


def test_the_test_samples_are_scored_by_and_not_learned_from() -> None:
    vectors, truth = clouds()
    every = [Arm("delivered", planted(truth[:ROWS]))]
    right = arms.probe(every, vectors[:ROWS], vectors[ROWS:], truth[ROWS:], **SETTINGS)
    turned = arms.probe(every, vectors[:ROWS], vectors[ROWS:], (truth[ROWS:] + 1) % CLASSES, **SETTINGS)
    assert not (right & turned).any()  # the same predictions, asked for something else
    half = arms.probe(every, vectors[:ROWS], vectors[ROWS:][:50], truth[ROWS:][:50], **SETTINGS)
    np.testing.assert_array_equal(right[:, :, :50], half)
