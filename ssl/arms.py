"""The arms of an experiment on labels: what each learns from, and which test samples it then gets right.

Arms are paired: a seed draws the same rows, the same initial weights, the same batches and variants for
all of them. What differs between two arms is their labels and nothing else; equal labels give equal numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from rich.progress import Progress, track
from threadpoolctl import threadpool_limits

from winnow.data import folds
from winnow.data.batches import UNLABELLED, Batch, TrainBatches, Variants
from winnow.data.folds import Vectors
from winnow.data.modality import Modality
from winnow.ssl import train
from winnow.ssl.classification import Classification, pooled, predict, solve_head

DELIVERED, ROUND, RANDOM_DROP, ORACLE = "delivered", "round", "random_drop", "oracle"
_ROWS, _DROPS = 0, 1  # streams of a seed: neither draw follows from the other


class Arm(NamedTuple):
    """One way to label the same rows.

    Attributes:
        name: `delivered`, `round@r`, `random_drop@r` or `oracle`.
        labels: class index for each row, `UNLABELLED` where it is not learned from.
        random_drops: rows that every seed drops besides, at random.
        against: names of the arms that it is compared to.
    """

    name: str
    labels: Int[np.ndarray, " row"]
    random_drops: int = 0
    against: tuple[str, ...] = ()

    def taught(self, seed: int) -> Int[np.ndarray, " row"]:
        """Give the labels under a seed; a larger drop contains the smaller one of the same seed."""
        known = np.flatnonzero(self.labels != UNLABELLED)
        order = np.random.default_rng([seed, _DROPS]).permutation(known)
        labels = self.labels.copy()
        labels[order[: self.random_drops]] = UNLABELLED
        return labels

    @property
    def learned(self) -> int:
        """How many rows it learns from."""
        return int((self.labels != UNLABELLED).sum()) - self.random_drops


class Plan(NamedTuple):
    """The arms, and the reason for each that there cannot be."""

    arms: list[Arm]
    absent: dict[str, str]

    def only(self, number: int) -> "Plan":
        """Keep one round and its controls."""
        names = {DELIVERED, f"{ROUND}@{number}", f"{RANDOM_DROP}@{number}", ORACLE}
        return Plan(
            [arm for arm in self.arms if arm.name in names],
            {name: reason for name, reason in self.absent.items() if name in names},
        )


def plan(
    delivered: Int[np.ndarray, " row"],
    rounds: Mapping[int, Int[np.ndarray, " row"]],
    truth: Int[np.ndarray, " row"] | None,
) -> Plan:
    """Put the labels of every round beside its controls.

    Args:
        delivered: class index of each row as delivered, `UNLABELLED` for none.
        rounds: the same after each round, `UNLABELLED` where it dropped the row.
        truth: the true ones; None if they are not known.
    """
    arms, absent = [Arm(DELIVERED, delivered)], {}
    before: tuple[str, ...] = (DELIVERED,)
    for number, labels in rounds.items():
        name, control = f"{ROUND}@{number}", f"{RANDOM_DROP}@{number}"
        arms.append(Arm(name, labels, against=(*before, control)))
        before = (DELIVERED, name)
        dropped = int(((delivered != UNLABELLED) & (labels == UNLABELLED)).sum())
        if dropped:
            arms.append(Arm(control, delivered, dropped, against=(DELIVERED,)))
        else:
            absent[control] = "the round dropped nothing"
    if truth is None:
        absent[ORACLE] = "the true labels are not known"
    elif np.array_equal(truth, delivered):
        absent[ORACLE] = "no label is known to be wrong"
    else:
        arms.append(Arm(ORACLE, truth, against=(DELIVERED,)))
    return Plan(arms, absent)


def probe(
    arms: Sequence[Arm],
    vectors: Vectors,
    asked: Vectors,
    wanted: Int[np.ndarray, " sample"],
    *,
    classes: int,
    inverse_penalty: float,
    rows: int,
    seeds: Sequence[int],
) -> Bool[np.ndarray, "arm seed sample"]:
    """Fit a logistic regression for each arm and seed, and say which test samples it gets right.

    Each seed is a bootstrap sample of the training rows, so that the spread over seeds is that of other data
    of the same kind.

    Args:
        arms: what to learn from.
        vectors: of the rows that the arms label.
        asked: of the test samples.
        wanted: class index of each test sample, as delivered.
        classes: number of classes.
        inverse_penalty: C of the logistic regression.
        rows: drawn by a seed, at most.
        seeds: one for each repetition.

    Raises:
        BadInput: if an arm's labels are all of one class.
    """
    correct = np.zeros((len(arms), len(seeds), len(wanted)), bool)
    number = vectors.shape[0]
    for place, seed in enumerate(track(seeds, "probe")):
        drawn = np.random.default_rng([seed, _ROWS]).integers(number, size=min(number, rows))
        for row, arm in enumerate(arms):
            labels = arm.taught(seed)[drawn]
            known = labels != UNLABELLED
            model = folds.linear(vectors, inverse_penalty)
            with threadpool_limits(1):
                found = folds.fit_predict(model, vectors[drawn[known]], labels[known], asked, classes)
            correct[row, place] = found.argmax(1) == wanted
    return correct


def finetune(
    arms: Sequence[Arm],
    make: Callable[[int], Classification],
    modality: Modality,
    samples: Batch,
    rows: Int[np.ndarray, " row"],
    test: Batch,
    *,
    inverse_penalty: float,
    variants: Variants,
    batch_size: int,
    steps: int,
    gradient_clip: float,
    accelerator: str,
    seeds: Sequence[int],
) -> Bool[np.ndarray, "arm seed sample"]:
    """Fine-tune the same encoder for each arm and seed, and say which test samples it gets right.

    The head starts as a logistic regression of the arm's labels: from a random one, a few steps would measure
    how far it has come.

    A sample that an arm drops stays in its batch without its label, and teaches nothing: all arms of a seed
    see the same batches to the end. An arm that drops has fewer labels in each, as has its control.

    Args:
        arms: what to learn from.
        make: gives the method, from the pretrained encoder, for a seed.
        modality: of the samples.
        samples: what the arms learn from; their own labels are not read.
        rows: which of the rows that the arms label they are.
        test: the samples to score by.
        inverse_penalty: C of the logistic regression.
        variants: what is drawn of a sample.
        batch_size: samples in a batch.
        steps: of each run.
        gradient_clip: norm above which gradients are cut.
        accelerator: Lightning's word for the device.
        seeds: of the order, the variants and dropout.

    Paper: Fine-tuning can distort pretrained features (Kumar et al. 2022), section 3.4: LP-FT.
    """
    correct = np.zeros((len(arms), len(seeds), len(test.label)), bool)
    read = pooled(make(seeds[0]).classifier.encoder, samples.x, 256)
    numbered = samples._replace(label=torch.arange(len(samples.x)))  # so that a batch tells its rows
    with Progress() as progress:
        bar = progress.add_task("finetune", total=correct[..., 0].size)
        for place, seed in enumerate(seeds):
            drawn = TrainBatches(
                numbered,
                modality,
                variants=variants,
                batch_size=batch_size,
                seed=seed,
                start=0,
                rank=0,
                ranks=1,
            )
            batches = list(islice(drawn, steps))
            for row, arm in enumerate(arms):
                labels = torch.from_numpy(arm.taught(seed)[rows])
                torch.manual_seed(seed)
                method = make(seed)
                solve_head(method.classifier.head, read, labels, inverse_penalty)
                train.briefly(
                    method,
                    [batch._replace(label=labels[batch.label]) for batch in batches],
                    gradient_clip=gradient_clip,
                    accelerator=accelerator,
                )
                found = predict(method.classifier, test.x, 256).argmax(1)
                correct[row, place] = (found == test.label).numpy()
                progress.advance(bar)
    return correct
