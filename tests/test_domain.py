from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from winnow.data.comparing import domain
from winnow.data.comparing.domain import Classifier

CLASSIFIER = Classifier(rows=500, folds=4, directions=32, shrinkage=0.1, min_auc=0.6)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_the_area_is_scikit_learns_ties_and_all(rows: list[tuple[int, bool]]) -> None:
    scores, second = (np.array(part) for part in zip(*rows, strict=True))
    if second.all() or not second.any():
        return
    found = domain._auc(np.stack([scores, -scores], 1), np.stack([second, second], 1))
    known = roc_auc_score(second, scores)
    assert found.tolist() == pytest.approx([known, 1 - known])


def test_scores_are_those_of_a_discriminant_that_did_not_see_the_sample() -> None:
    random = np.random.default_rng(0)
    x, second, fold = random.normal(size=(90, 5)), np.arange(90) % 3 == 0, np.arange(90) % 4
    x[second, 0] += 1
    found = domain._Folds(x, fold, shrinkage=1e-9).scores(second[:, None])[:, 0]
    for held in range(4):
        known = LinearDiscriminantAnalysis().fit(x[fold != held], second[fold != held])
        mine = known.decision_function(x[fold == held])
        assert np.corrcoef(mine, found[fold == held])[0, 1] == pytest.approx(1)


def test_the_bootstrap_of_the_area_is_a_naive_one() -> None:
    random = np.random.default_rng(0)
    side = np.arange(40) < 15
    scores = random.normal(size=40) + side
    found = domain._bootstrap(scores, np.arange(40), side, 2000, random)
    naive = []
    for _ in range(2000):
        picked = [random.choice(np.flatnonzero(side == one), (side == one).sum()) for one in (True, False)]
        rows = np.concatenate(picked)
        naive.append(domain._auc(scores[rows, None], side[rows, None])[0])
    assert found == pytest.approx(np.std(naive), rel=0.06)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_shift_of_a_few_directions_is_found(sparse: bool) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(600, 40))
    side = np.arange(600) < 250
    vectors[side, :4] += 0.6
    given_ = scipy.sparse.csr_array(np.maximum(vectors, 0)) if sparse else vectors
    found = domain.domain(given_, np.arange(600), side, CLASSIFIER, permutations=499, seed=0)
    assert found.auc > 0.65 and found.p == 1 / 500
    assert found.low < found.auc < found.high and found.low > 0.55
    assert found == domain.domain(given_, np.arange(600), side, CLASSIFIER, permutations=499, seed=0)


def test_random_halves_are_seldom_told_apart() -> None:
    p, held = [], []
    for seed in range(100):
        random = np.random.default_rng(1000 + seed)
        vectors, side = random.normal(size=(120, 8)), random.permutation(120) < 40
        found = domain.domain(vectors, np.arange(120), side, CLASSIFIER, permutations=99, seed=seed)
        p.append(found.p)
        held.append(found.low <= 0.5 <= found.high)
    assert np.mean(np.array(p) <= 0.05) <= 0.1
    assert np.mean(held) >= 0.88


def test_random_sets_of_speakers_are_not_told_apart_however_different_speakers_are() -> None:
    p = []
    for seed in range(100):
        random = np.random.default_rng(1000 + seed)
        blocks = np.repeat(np.arange(16), 15)
        vectors = 3 * random.normal(size=(16, 8))[blocks] + random.normal(size=(240, 8))
        side = random.permutation(16) < 6
        p.append(domain.domain(vectors, blocks, side, CLASSIFIER, permutations=99, seed=seed).p)
    assert np.mean(np.array(p) <= 0.05) <= 0.1


def test_two_blocks_of_a_side_are_enough() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 4))
    blocks = np.arange(60) // 10
    found = domain.domain(
        vectors, blocks, np.arange(6) < 2, replace(CLASSIFIER, folds=5), permutations=50, seed=0
    )
    assert 0 <= found.low <= found.auc <= found.high <= 1
