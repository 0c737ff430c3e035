"""How labels went wrong: a model of the noise, fitted to given labels and out-of-fold probabilities.

A label is doubted by how unlikely it is, and by how such labels come about. Where two classes look alike a
model errs on the samples between them, however right their labels; where annotators mix two classes up,
labels are wrong on the plainest samples too. The likelihood of the given labels tells the two apart: one
is a lack of sharpness of the probabilities, the other a transition between classes.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

_PRIOR = 0.05  # weight of the first guess, in mean class sizes
# A model that learned to imitate the noise explains the labels without any. The confident joint is harder to
# fool: a fit that leaves less than this share of the noise that it counts has to keep to it, by this weight.
_IMITATED, _HELD = 0.5, 1.0
_FITTED_TO = 100_000  # samples: more tell nothing more about so few numbers
_ROUNDS = 100
_ENOUGH = 1e-6  # gain in mean log likelihood below which the fit ends
_FLOOR = 1e-6  # no class is impossible
# What learned from noisy labels is vaguer than the truth. Without a bound a model that imitates the noise to
# the last digit would explain all of it, and no label would be wrong.
_SHARPNESS = (1.5, 8.0)


class NoiseModel(NamedTuple):
    """How given labels come from true ones.

    Attributes:
        transition: probability of the given label (column) where a label is true (row).
        sharpness: power to which probabilities were too vague; above 1 where they learned from noise.
    """

    transition: np.ndarray
    sharpness: float

    def true(self, probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Give the probability of each class `[sample, class]` to be the true one, the label considered."""
        joint = _sharpened(np.log(np.maximum(probabilities, _FLOOR)), self.sharpness)
        joint *= self.transition[:, labels].T
        return joint / joint.sum(1, keepdims=True)

    def wrong(self, probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Give the probability of each given label to be wrong [0–1]."""
        return 1 - self.true(probabilities, labels)[np.arange(len(labels)), labels]


def fit(
    probabilities: np.ndarray,
    labels: np.ndarray,
    guess: np.ndarray,
    *,
    seed: int,
    sharpness: float | None = None,
) -> NoiseModel:
    """Fit the noise by expectation maximisation.

    Args:
        probabilities: out-of-fold `[sample, class]`.
        labels: class index of each sample, as given.
        guess: the transition `[true, given]` to begin with, from the confident joint; little data stays
            near, and so does a fit that finds far less noise.
        seed: of the samples that are fitted to, if there are very many.
        sharpness: of the probabilities, if it is known; None fits it as well.

    Paper: Learning from noisy labels with deep neural networks (Sukhbaatar et al. 2014), section 4, the
    layer of noise on top of a model; here it is fitted to fixed out-of-fold probabilities.
    """
    if len(labels) > _FITTED_TO:
        chosen = np.random.default_rng(seed).choice(len(labels), _FITTED_TO, replace=False)
        probabilities, labels = probabilities[chosen], labels[chosen]
    size, classes = probabilities.shape
    log = np.log(np.maximum(probabilities, _FLOOR))
    # Nothing is impossible, and of samples without a wrong label some are still more doubtful.
    guess = (1 - 1 / size) * guess + 1 / size / classes
    model = _maximised(log, labels, guess, _PRIOR, sharpness)
    if _off_diagonal(model.transition) < _IMITATED * _off_diagonal(guess):
        return _maximised(log, labels, guess, _HELD, sharpness)
    return model


def _off_diagonal(transition: np.ndarray) -> float:
    return 1 - float(np.trace(transition)) / len(transition)


def _maximised(
    log: np.ndarray, labels: np.ndarray, guess: np.ndarray, prior: float, sharpness: float | None
) -> NoiseModel:
    """Maximise the likelihood of the labels, with a prior of so many class sizes on the first guess."""
    size, classes = log.shape
    model = NoiseModel(guess, sharpness or _SHARPNESS[0])
    before = -np.inf
    for _ in range(_ROUNDS):
        joint = _sharpened(log, model.sharpness) * model.transition[:, labels].T
        likelihood = joint.sum(1, keepdims=True)
        joint /= likelihood
        counts = np.stack([np.bincount(labels, column, classes) for column in joint.T])
        spread = counts + prior * size / classes * guess
        transition = spread / spread.sum(1, keepdims=True)
        model = NoiseModel(transition, sharpness or _sharpest(log, transition[:, labels].T))
        now = float(np.log(likelihood).mean())
        if now - before < _ENOUGH:
            break
        before = now
    return model


def _sharpened(log: np.ndarray, power: float) -> np.ndarray:
    raised = power * log
    raised = np.exp(raised - raised.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def _sharpest(log: np.ndarray, transition: np.ndarray) -> float:
    """Find the power of the probabilities under which the given labels are likeliest."""

    def loss(power: float) -> float:
        return -float(np.log((_sharpened(log, power) * transition).sum(1)).mean())

    return float(minimize_scalar(loss, bounds=_SHARPNESS, method="bounded", options={"xatol": 1e-2}).x)
