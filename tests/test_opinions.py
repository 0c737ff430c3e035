import clouds
import numpy as np
import pytest
import scipy.sparse

from winnow.data import folds
from winnow.data.judging import opinions
from winnow.data.judging.issues import comparable
from winnow.data.judging.opinions import VOTE, Evidence, Pool
from winnow.data.neighbours import Graph, Vectors, graph

SIZE, CLASSES = 150, 3
JUDGED, ASKED, BYSTANDERS = np.arange(110), np.arange(110, 140), np.arange(140, 150)
NAMES = {"ant": SIZE // 3, "bee": SIZE // 3, "cat": SIZE // 3}


def evidence(vectors: Vectors) -> Evidence:
    return Evidence(vectors, graph(comparable(vectors), k=10, exact_up_to=1000, seed=0))


def words(labels: np.ndarray, seed: int = 0) -> scipy.sparse.csr_array:
    """Counts of thirty words, of which each class has some of its own."""
    rate = 0.3 + 2 * np.eye(CLASSES)[labels].repeat(10, axis=1)
    return scipy.sparse.csr_array(np.random.default_rng(seed).poisson(rate).astype(np.float32))


@pytest.fixture(scope="module")
def samples() -> tuple[dict[str, Evidence], np.ndarray]:
    """Two kinds of vectors, a dense and a sparse one, and the class of each sample."""
    vectors, names = clouds.cloud(NAMES)
    labels = np.searchsorted(sorted(NAMES), names)
    return {"clouds": evidence(vectors), "words": evidence(words(labels))}, labels


def pool(labels: np.ndarray, trusted: np.ndarray | None = None) -> Pool:
    given = labels.copy()
    given[BYSTANDERS] = -1
    return Pool(given, given if trusted is None else trusted, CLASSES, JUDGED, ASKED)


def dealt(labels: np.ndarray, families: np.ndarray | None = None, number: int = 5) -> np.ndarray:
    fold = np.full(SIZE, -1)
    families = np.arange(SIZE) if families is None else families
    fold[JUDGED] = folds.deal(labels[JUDGED], families[JUDGED], number, seed=0)
    return fold


def test_every_model_on_every_evidence_judges_who_is_judged_and_who_is_asked(
    samples: tuple[dict[str, Evidence], np.ndarray],
) -> None:
    known, labels = samples
    found = opinions.of_strangers(known, pool(labels), dealt(labels), 3.0)
    assert set(found) == {
        ("clouds", "linear"), ("clouds", VOTE), ("words", "linear"), ("words", "counts"), ("words", VOTE),
    }  # fmt: skip
    for opinion in found.values():
        assert opinion.shape == (SIZE, CLASSES) and (opinion >= 0).all()
        for rows in (JUDGED, ASKED):
            np.testing.assert_allclose(opinion[rows].sum(1), 1, rtol=1e-5)
            assert (opinion[rows].argmax(1) == labels[rows]).mean() > 0.85
        assert (opinion[BYSTANDERS] == 0).all(), "nobody asked about these"


def test_nothing_is_learned_from_asked_samples_nor_from_those_that_are_not_trusted(
    samples: tuple[dict[str, Evidence], np.ndarray],
) -> None:
    known, labels = samples
    fold, trusted = dealt(labels), labels.copy()
    trusted[JUDGED[::7]] = -1
    lies = trusted.copy()
    # In the pool of the judge these are -1; even if they were not, they must not be heard.
    lies[ASKED] = lies[BYSTANDERS] = (labels[ASKED[0]] + 1) % CLASSES
    honest, deceived = (
        opinions.of_strangers(known, pool(labels, told), fold, 3.0) for told in (trusted, lies)
    )
    for key, opinion in honest.items():
        np.testing.assert_array_equal(opinion, deceived[key])
    changed = labels.copy()
    changed[JUDGED[::7]] = (changed[JUDGED[::7]] + 1) % CLASSES
    unheard = np.where(trusted < 0, -1, changed)
    again = opinions.of_strangers(known, pool(changed, unheard), fold, 3.0)
    for key, opinion in honest.items():
        np.testing.assert_array_equal(opinion, again[key])


def test_no_label_bears_on_the_opinion_of_its_own_fold_but_on_that_of_the_asked(
    samples: tuple[dict[str, Evidence], np.ndarray],
) -> None:
    known, labels = samples
    fold = dealt(labels)
    mine = fold == 2
    changed = labels.copy()
    changed[mine] = (labels[mine] + 1) % CLASSES
    for ask in (
        lambda told: opinions.of_strangers(known, pool(labels, told), fold, 3.0),
        lambda told: opinions.of_other_groups(known, pool(labels, told), fold, 3.0, 10, 1000),
    ):
        before, after = ask(labels), ask(changed)
        for key in before:
            np.testing.assert_array_equal(before[key][mine], after[key][mine])
            assert not np.array_equal(before[key][~mine], after[key][~mine])


def test_without_asked_samples_only_the_judged_get_an_opinion(
    samples: tuple[dict[str, Evidence], np.ndarray],
) -> None:
    known, labels = samples
    alone = pool(labels)._replace(asked=np.array([], int))
    for opinion in opinions.of_strangers(known, alone, dealt(labels), 3.0).values():
        assert (opinion[JUDGED].sum(1) > 0.99).all() and (opinion[ASKED] == 0).all()


def test_the_vote_of_strangers_is_by_the_graph_and_that_of_other_groups_is_not(
    samples: tuple[dict[str, Evidence], np.ndarray],
) -> None:
    known, labels = samples
    fold = dealt(labels)
    nobody = Graph(np.arange(SIZE, dtype=np.int32)[:, None], np.ones((SIZE, 1), np.float32), "exact", None, 0)
    blind = {name: one._replace(graph=nobody) for name, one in known.items()}
    strangers = opinions.of_strangers(blind, pool(labels), fold, 3.0)
    np.testing.assert_allclose(strangers["clouds", VOTE][JUDGED], 1 / CLASSES)
    others = opinions.of_other_groups(blind, pool(labels), fold, 3.0, 10, exact_up_to=1000)
    assert (others["clouds", VOTE][JUDGED].argmax(1) == labels[JUDGED]).mean() > 0.95
    for opinion in others.values():
        assert (opinion[ASKED] == 0).all() and (opinion[BYSTANDERS] == 0).all()


def test_beyond_so_many_samples_neighbours_in_other_groups_are_not_looked_for(
    samples: tuple[dict[str, Evidence], np.ndarray],
) -> None:
    known, labels = samples
    for exact_up_to, voted in ((len(JUDGED), True), (len(JUDGED) - 1, False)):
        found = opinions.of_other_groups(known, pool(labels), dealt(labels), 3.0, 10, exact_up_to)
        assert (("clouds", VOTE) in found) == (("words", VOTE) in found) == voted
        assert ("clouds", "linear") in found and ("words", "counts") in found


def test_a_group_whose_labels_are_all_wrong_is_seen_through_by_other_groups_alone() -> None:
    # Each group has a place of its own; those who know the group learn its wrong labels with it.
    random = np.random.default_rng(0)
    groups, labels = np.arange(SIZE) % 5, np.arange(SIZE) // 5 % CLASSES
    vectors = (4 * np.eye(20)[labels] + 8 * np.eye(20)[5 + groups]).astype(np.float32)
    vectors += random.normal(0, 1, vectors.shape).astype(np.float32)
    given = np.where((groups == 0) & (labels == 0), 1, labels)
    wrong = np.flatnonzero(given != labels)
    everyone = Pool(given, given, CLASSES, np.arange(SIZE), np.array([], int))
    known = {"clouds": evidence(vectors)}
    strangers = opinions.of_strangers(known, everyone, folds.deal(given, np.arange(SIZE), 5, seed=0), 3.0)
    apart = opinions.of_other_groups(known, everyone, folds.deal(given, groups, 5, seed=0), 3.0, 10, 1000)
    assert (strangers["clouds", VOTE][wrong].argmax(1) == 1).mean() > 0.8
    assert (apart["clouds", "linear"][wrong].argmax(1) == 0).mean() > 0.7


def test_shares_sum_to_1_and_go_to_what_predicts_the_given_labels_of_judged_samples(
    samples: tuple[dict[str, Evidence], np.ndarray],
) -> None:
    _, labels = samples
    sure, guess = 0.85 * np.eye(CLASSES)[labels] + 0.05, np.full((SIZE, CLASSES), 1 / CLASSES)
    wrong = np.roll(sure, 1, axis=1)
    told = {("a", "knows"): sure, ("a", "guesses"): guess, ("b", "errs"): wrong}
    shares = opinions.weigh(told, pool(labels))
    assert sum(shares.values()) == pytest.approx(1) and list(shares) == list(told)
    assert shares["a", "knows"] > 0.99
    # What is thought of others has no weight, nor have the labels that are trusted.
    for opinion in (sure, wrong):
        opinion[ASKED] = opinion[BYSTANDERS] = np.nan
    swapped = pool(labels, np.roll(labels, 1))
    assert opinions.weigh(told, swapped) == shares


def test_who_knows_half_of_the_samples_each_share_and_predict_best_together(
    samples: tuple[dict[str, Evidence], np.ndarray],
) -> None:
    _, labels = samples
    even = np.full((SIZE, CLASSES), 1 / CLASSES)
    sure = 0.97 * np.eye(CLASSES)[labels] + 0.01
    first = np.arange(SIZE)[:, None] % 2 == 0
    told = {("a", "m"): np.where(first, sure, even), ("b", "m"): np.where(first, even, sure)}
    shares = opinions.weigh(told, pool(labels))
    assert list(shares.values()) == pytest.approx([0.5, 0.5], abs=0.05)
    mixed = opinions.mix(told, shares)
    assert (mixed.argmax(1) == labels).all()


def given_opinions(seed: int = 0) -> opinions.Opinions:
    random = np.random.default_rng(seed)
    keys = [("a", "linear"), ("a", VOTE), ("b", "linear"), ("b", VOTE)]
    return {key: random.dirichlet(np.ones(CLASSES), 8) for key in keys}


SHARES = {("a", "linear"): 0.5, ("a", VOTE): 0.3, ("b", "linear"): 0.2, ("b", VOTE): 0.0}


def test_all_opinions_are_averaged_by_their_shares() -> None:
    told = given_opinions()
    known = 0.5 * told["a", "linear"] + 0.3 * told["a", VOTE] + 0.2 * told["b", "linear"]
    np.testing.assert_allclose(opinions.mix(told, SHARES), known)


def test_one_evidence_or_some_models_alone_keep_their_shares_among_themselves() -> None:
    told = given_opinions()
    of_a = 0.625 * told["a", "linear"] + 0.375 * told["a", VOTE]
    np.testing.assert_allclose(opinions.mix(told, SHARES, evidence="a"), of_a)
    np.testing.assert_allclose(opinions.mix(told, SHARES, evidence="b"), told["b", "linear"])
    np.testing.assert_allclose(opinions.mix(told, SHARES, models=[VOTE]), told["a", VOTE])
    lines = (0.5 * told["a", "linear"] + 0.2 * told["b", "linear"]) / 0.7
    np.testing.assert_allclose(opinions.mix(told, SHARES, models=["linear"]), lines)


def test_opinions_without_any_share_count_the_same() -> None:
    told = given_opinions()
    np.testing.assert_allclose(opinions.mix(told, SHARES, evidence="b", models=[VOTE]), told["b", VOTE])
    none = dict.fromkeys(told, 0.0)
    np.testing.assert_allclose(opinions.mix(told, none), np.mean(list(told.values()), axis=0))


def test_where_nobody_has_an_opinion_the_mixture_has_none() -> None:
    told = given_opinions()
    for opinion in told.values():
        opinion[3] = 0
    mixed = opinions.mix(told, SHARES)
    assert (mixed[3] == 0).all()
    np.testing.assert_allclose(np.delete(mixed, 3, axis=0).sum(1), 1)
