import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from winnow.data.comparing import versions
from winnow.data.comparing.distributions import distance


def table(size: int = 1000, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    manifest = pd.DataFrame({"id": [f"{i:020x}" for i in random.permutation(10 * size)[:size]]})
    manifest["label"] = pd.Series(random.choice(["bread", "butter"], size), dtype=object)
    manifest["group"] = pd.Series([f"Ada {i % 9}" for i in range(size)], dtype=object)
    manifest["seconds"] = random.gamma(2, 0.5, size)
    manifest["native_rate_hz"] = 8000.0
    manifest["snr_db"] = np.where(random.random(size) < 0.1, np.nan, random.normal(20, 5, size))
    return manifest


MEASURES = ["seconds", "native_rate_hz", "snr_db"]


def vectors(size: int = 300, seed: int = 0, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(size, width)).astype(np.float32)


def described(manifest: pd.DataFrame, found: np.ndarray) -> dict:
    return json.loads(json.dumps(versions.profile(manifest, MEASURES, found, 8, 0)))


def effects(old: dict, manifest: pd.DataFrame, found: np.ndarray) -> dict[tuple[str, str], float]:
    shifts, _ = versions.shifts(old, manifest, MEASURES, found)
    return {(s.name, s.kind): float(distance(s.a, s.b, ordered=s.ordered)) for s in shifts}


def test_a_version_does_not_differ_from_its_own_profile() -> None:
    manifest = table()
    old = described(manifest, vectors())
    found = effects(old, manifest, vectors())
    assert set(found.values()) == {0.0}
    assert len(found) == 3 + 1 + 8 + 2, "measures, a missing one, projections, labels and groups"
    assert versions.retained(old["ids"], manifest["id"]) == 1


def test_what_changed_shows_by_as_much_as_it_changed() -> None:
    manifest, new = table(), table(seed=1)
    old = described(manifest, vectors())
    new["seconds"] += 0.5
    new.loc[:299, "native_rate_hz"] = 16000.0
    new.loc[300:399, "native_rate_hz"] = 4000.0
    new["snr_db"] = np.nan
    new.loc[:99, "snr_db"] = 20.0
    new.loc[:249, "label"] = "cheese"
    moved = vectors(seed=1)
    moved[:, 0] += 3
    found = effects(old, new, moved)
    known = np.abs(
        np.searchsorted(np.sort(manifest["seconds"]), manifest["seconds"], side="right")
        - np.searchsorted(np.sort(new["seconds"]), manifest["seconds"], side="right")
    )
    assert found["seconds", "measure"] == pytest.approx(known.max() / 1000, abs=1 / 40)
    assert found["native_rate_hz", "measure"] == pytest.approx(0.3)
    assert found["snr_db", "missing"] == pytest.approx(0.8, abs=0.05)
    assert found["label_shift", "label_shift"] == pytest.approx(0.25, abs=0.04)
    assert max(d for (_, kind), d in found.items() if kind == "projection") > 0.3
    (labels,) = (s for s in versions.shifts(old, new, MEASURES, moved)[0] if s.kind == "label_shift")
    assert sorted(labels.names) == ["bread", "butter", "cheese"]


def test_what_cannot_be_compared_says_why() -> None:
    manifest = table()
    old = described(manifest, vectors())
    bare = manifest.assign(label=None, group=None, snr_db=np.nan)
    _, skipped = versions.shifts(old, bare, ["seconds", "snr_db", "width_px"], vectors(width=13))
    reasons = {row["name"]: row["reason"] for row in skipped}
    assert reasons == {
        "native_rate_hz": "not measured in this version",
        "width_px": "not measured in the accepted version",
        "snr_db": "one version has no value of it",
        "descriptors": "descriptors are 13 numbers, and were 12",
        "label_shift": "one version has no labels",
        "groups": "one version has no groups",
    }


def test_the_share_of_samples_that_stayed_is_estimated_from_few_ids() -> None:
    manifest = table(4000)
    old = described(manifest, vectors())
    assert len(old["ids"]) < 300
    stayed = manifest["id"].sample(frac=0.7, random_state=0)
    assert versions.retained(old["ids"], [*stayed, "something new"]) == pytest.approx(0.7, abs=0.08)


def test_a_profile_is_small_and_names_no_person_however_large_the_dataset_is() -> None:
    manifest = table(20_000)
    for i in range(12):
        manifest[f"measure {i}"] = np.random.default_rng(i).normal(size=20_000)
    manifest["label"] = [f"class {i % 1500}" for i in range(20_000)]
    manifest["group"] = [f"Ada {i}" for i in range(20_000)]
    names = [*MEASURES, *(f"measure {i}" for i in range(12))]
    old = versions.profile(manifest, names, vectors(2000), 16, 0)
    text = json.dumps(old, indent=2)
    assert len(text) < 100_000
    assert "Ada" not in text
    assert sum(old["labels"].values()) == sum(old["groups"].values()) == 20_000
    shifts, _ = versions.shifts(old, manifest, names, vectors(2000))
    assert all(distance(s.a, s.b, ordered=s.ordered) == 0 for s in shifts)


def test_sparse_descriptors_are_projected_as_dense_ones_are() -> None:
    found = np.maximum(vectors(), 0)
    sparse = scipy.sparse.csr_array(found)
    np.testing.assert_allclose(versions.project(sparse, 4, 7), versions.project(found, 4, 7), rtol=1e-5)
    assert not np.allclose(versions.project(found, 4, 7), versions.project(found, 4, 8))
