import numpy as np
import pytest
import scipy.sparse
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.neighbors import NearestNeighbors

from winnow.data import neighbours
from winnow.data.neighbours import Graph, Vectors, graph

FAR = {"k": 5, "exact_up_to": 100, "seed": 0}


def clouds(count: int, width: int = 24, seed: int = 0) -> np.ndarray:
    """Points around forty centres."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(40, width))
    return (centres[random.integers(0, 40, count)] + 0.3 * random.normal(size=(count, width))).astype(
        np.float32
    )


def documents(count: int, seed: int = 0) -> scipy.sparse.csr_array:
    """Rows of some twenty words, common and rare ones, of which those of a topic go together."""
    random = np.random.default_rng(seed)
    words = np.concatenate(
        [random.zipf(1.5, (count, 10)) % 100, 100 + random.integers(0, 60, (count, 10))], axis=1
    )
    words[:, 10:] += 60 * random.integers(0, 50, (count, 1))
    ends = np.arange(0, words.size + 1, 20)
    counts = scipy.sparse.csr_array(
        (np.ones(words.size, np.float32), words.ravel(), ends), shape=(count, 4000)
    )
    counts.sum_duplicates()
    return scipy.sparse.csr_array(TfidfTransformer().fit_transform(counts).astype(np.float32))


def both() -> list[Vectors]:
    return [clouds(3000), documents(3000)]


def brute(vectors: Vectors, k: int) -> tuple[np.ndarray, np.ndarray]:
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(vectors).kneighbors()


def true_distances(vectors: Vectors, found: Graph) -> np.ndarray:
    dense = vectors if isinstance(vectors, np.ndarray) else vectors.toarray()
    return np.linalg.norm(dense[found.index] - dense[:, None], axis=2)


@pytest.mark.parametrize("vectors", both(), ids=["dense", "sparse"])
def test_few_samples_get_their_true_neighbours(vectors: Vectors):
    found = graph(vectors, k=5, exact_up_to=3000, seed=0)
    distance, index = brute(vectors, 5)
    assert (found.method, found.recall, found.recall_sample) == ("exact", None, 0)
    assert np.array_equal(found.index, index) and np.allclose(found.distance, distance, atol=1e-5)


@pytest.mark.parametrize("vectors", both(), ids=["dense", "sparse"])
def test_many_samples_get_most_of_them_and_recall_says_how_many(vectors: Vectors):
    found = graph(vectors, **FAR)
    truth = brute(vectors, 5)[0][:, -1:]
    share = (found.distance <= truth + 1e-5).mean()
    assert found.recall is not None and found.recall_sample == 500
    assert share > 0.9 and found.recall == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("vectors", both(), ids=["dense", "sparse"])
def test_a_row_holds_others_once_nearest_first_at_their_true_distance(vectors: Vectors):
    for exact_up_to in (100, 3000):
        found = graph(vectors, k=5, exact_up_to=exact_up_to, seed=0)
        assert found.index.dtype == np.int32 and found.distance.dtype == np.float32
        assert (found.index != np.arange(3000)[:, None]).all()
        assert (np.diff(np.sort(found.index, axis=1), axis=1) > 0).all()
        assert (np.diff(found.distance, axis=1) >= 0).all()
        assert np.allclose(found.distance, true_distances(vectors, found), atol=1e-3)


@pytest.mark.parametrize("vectors", both(), ids=["dense", "sparse"])
def test_the_same_seed_gives_the_same_graph(vectors: Vectors):
    first, again = graph(vectors, **FAR), graph(vectors, **FAR)
    assert np.array_equal(first.index, again.index) and np.array_equal(first.distance, again.distance)
    assert first.recall == again.recall


@pytest.mark.parametrize("vectors", both(), ids=["dense", "sparse"])
def test_equal_samples_are_neighbours_at_distance_zero(vectors: Vectors):
    vectors = vectors[np.concatenate([np.arange(2000), np.full(20, 7), np.repeat(np.arange(100, 200), 2)])]
    found = graph(vectors, **FAR)
    assert found.distance[7].max() == 0 and found.distance[2000:2020].max() == 0
    assert (found.distance[100:200, :2] == 0).all() and (found.distance[100:200, 2] > 0).all()


def test_samples_that_share_nothing_with_any_other_still_get_neighbours():
    lonely = scipy.sparse.csr_array(scipy.sparse.eye_array(600, 4000, k=3400, dtype=np.float32))
    found = graph(scipy.sparse.csr_array(scipy.sparse.vstack([documents(600), lonely], format="csr")), **FAR)
    assert np.allclose(found.distance[600:], np.sqrt(2), atol=1e-6)
    assert found.recall is not None and found.recall > 0.9


def test_a_feature_that_all_have_does_not_make_all_pairs_be_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "_LOOKED_AT", 300)
    vectors = documents(3000)
    lists = neighbours._inverted(vectors)
    lengths = np.diff(vectors.T.tocsr().indptr)
    assert np.array_equal(np.diff(lists.indptr), np.minimum(lengths, 300))
    rarest = neighbours._rarest(vectors[:50], np.diff(lists.indptr))
    looked_at = [np.diff(lists.indptr)[rarest[[i]].indices].sum() for i in range(50)]
    assert max(looked_at) <= 300 and min(looked_at) > 0
    assert graph(vectors, **FAR).recall > 0.3  # type: ignore[operator]


def test_a_sample_alone_has_no_neighbours():
    with pytest.raises(ValueError, match="5 samples have no 5 neighbours"):
        graph(clouds(5), **FAR)
