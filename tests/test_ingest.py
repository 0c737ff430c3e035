import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SAMPLES_PER_CLASS, Kind
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.data import ingest, store
from winnow.data.ingest import plant_noise
from winnow.data.modality import Modality
from winnow.data.partition import Splits
from winnow.data.sources.records import Record, Source
from winnow.data.stage import BadInput
from winnow.data.text import Text

TEXT = Text(length=8, vocabulary=64)


class Listed(Source):
    """Records from a list."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        yield from self._records


def texts(count: int, **columns: Any) -> list[Record]:
    fixed = {"reason": None, "label": None, "split": None, "group": None, **columns}
    return [Record(f"t#{i}", f"text number {i}".encode(), **fixed) for i in range(count)]


def run(records: list[Record], out: Path, modality: Modality = TEXT, **changes: Any) -> Path:
    keywords: dict[str, Any] = {
        "splits": Splits(validation=0.2, test=0.2),
        "min_class_size": 1,
        "max_rejects": 0.9,
        "label_noise": 0.0,
        "seed": 0,
        "engine": "local",
        "workers": 1,
        **changes,
    }
    ingest.main(modality, Path("somewhere"), out, source=Listed(records), **keywords)
    return out


def manifest(out: Path) -> pd.DataFrame:
    return store.read_table(out / "manifest.parquet")


def rejects(out: Path) -> dict[str, str]:
    table = store.read_table(out / "rejects.parquet")
    return dict(zip(table["source"], table["reason"], strict=True))


def samples(
    labels: list[Any], groups: list[Any] | None = None, splits: list[Any] | None = None
) -> pd.DataFrame:
    none = [None] * len(labels)
    columns = {"id": [f"id{i}" for i in range(len(labels))], "label": labels}
    columns |= {"split": splits or none, "group": groups or none}
    return pd.DataFrame(columns, dtype=object)


# What every modality owes ingest.


def test_all_samples_are_stored_and_described(ingested: Path, modality: Modality):
    table = manifest(ingested)
    assert list(table.columns[:5]) == ["id", "label", "split", "group", "source"]
    assert len(table) == 3 * SAMPLES_PER_CLASS and table["id"].is_unique
    assert set(table["split"]) == set(store.SPLITS)
    assert not np.isinf(table.iloc[:, 5:].to_numpy(dtype=float)).any()  # NaN is not measured
    stored = list(store.payloads(ingested))
    assert [id_ for id_, _ in stored] == table["id"].tolist()
    assert store.read_vectors(ingested / "descriptors", table["id"].tolist()).shape[0] == len(table)
    shapes = {(x.shape, x.dtype) for x in (modality.load(payload) for _, payload in stored)}
    assert len(shapes) == 1


def test_frontends_give_a_token_for_each_place_on_the_grid(ingested: Path, modality: Modality):
    x = torch.stack([modality.load(payload) for _, payload in store.payloads(ingested)])
    tokens = modality.frontend(dim=8)(x)
    count = int(np.prod(modality.grid))
    assert tokens.x.shape == (len(x), count, 8)
    assert tokens.valid.shape == (len(x), count) and tokens.valid.dtype == torch.bool
    assert tokens.valid[:, 0].all()


def test_transforms_keep_the_shape_and_depend_on_the_generator_alone(ingested: Path, modality: Modality):
    for _, payload in list(store.payloads(ingested))[::9]:
        x = modality.load(payload)
        before = x.clone()
        variants = [modality.transform(x, torch.Generator().manual_seed(s), 1.0) for s in (1, 1, 2, 3)]
        assert torch.equal(x, before)
        assert all(v.shape == x.shape and v.dtype == x.dtype for v in variants)
        assert torch.equal(variants[0], variants[1])
        assert not torch.equal(variants[1], variants[2]) or not torch.equal(x, variants[3])


def test_frontends_export_to_onnx_with_any_batch(ingested: Path, modality: Modality, tmp_path: Path):
    import onnxruntime

    x = torch.stack([modality.load(payload) for _, payload in store.payloads(ingested)][:5])
    front = modality.frontend(dim=8).eval()
    program = torch.onnx.export(
        front, (x[:2],), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    program.save(tmp_path / "front.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "front.onnx")
    tokens, valid = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = front(x)
    assert np.allclose(tokens, expected.x.detach().numpy(), atol=1e-5)
    assert np.array_equal(valid, expected.valid.numpy())


def test_previews_are_self_contained(ingested: Path, modality: Modality):
    shown = modality.preview(next(iter(store.payloads(ingested)))[1])
    assert shown.startswith("<") and shown.endswith(">")
    assert "http" not in shown.replace("http://www.w3.org/2000/svg", "")


def test_the_same_source_is_ingested_to_the_same_bytes(
    kind: Kind, modality: Modality, raw: Path, ingested: Path, tmp_path: Path
):
    ingest.main(
        modality,
        raw,
        tmp_path / "again",
        source=kind.source,
        splits=Splits(validation=0.2, test=0.2),
        min_class_size=2,
        max_rejects=0.0,
        label_noise=0.0,
        seed=0,
        engine="local",
        workers=1,
    )
    names = sorted(p.relative_to(ingested) for p in ingested.rglob("*") if p.is_file())
    assert len(names) == 10
    for name in names:
        assert (ingested / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


# Inputs = manifest + rejects.


def test_every_input_is_in_the_manifest_or_in_the_rejects(tmp_path: Path):
    good = texts(5, label="a")
    bad = [
        Record("empty", b" ", None, "a", None, None),
        Record("gone", None, "file 'gone' is missing", "a", None, None),
        Record("latin", b"K\xe4se", None, "a", None, None),
        good[2],
    ]
    out = run(good[:3] + bad + good[3:], tmp_path)
    found = rejects(out)
    assert len(manifest(out)) == 5 and len(found) == 4
    assert found["gone"] == "file 'gone' is missing" and found["empty"] == "the text is empty"
    assert found["t#2"] == "same content and source as an earlier record"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["samples"] == 5 and metrics["rejects"] == 4
    assert metrics["reject_share"] == pytest.approx(4 / 9)


def test_ids_do_not_depend_on_neighbours_or_settings(tmp_path: Path):
    records = texts(6, label="a")
    few = run(records[3:], tmp_path / "few", seed=1)
    all_ = run(records, tmp_path / "all", label_noise=0.0, seed=2)
    assert set(manifest(few)["id"]) < set(manifest(all_)["id"])


def test_the_same_content_from_two_sources_is_two_samples(tmp_path: Path):
    records = [Record(name, b"one text", None, "a", None, None) for name in "abcde"]
    assert len(manifest(run(records, tmp_path))) == 5


def test_a_class_that_is_too_small_is_rejected_and_not_stored(tmp_path: Path):
    records = texts(9, label="big") + texts(12, label=None)[9:]
    records += [Record("lonely", b"all alone", None, "single", None, None)]
    out = run(records, tmp_path, min_class_size=2)
    assert rejects(out) == {
        "lonely": "class 'single' has 1 of the 2 samples that a class needs",
    }
    assert [id_ for id_, _ in store.payloads(out)] == manifest(out)["id"].tolist()
    assert len(manifest(out)) == 12
    assert store.read_vectors(out / "descriptors", manifest(out)["id"]).shape[0] == 12
    assert len(store.read_fingerprints(out, manifest(out)["id"]).identity) == 12
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_too_many_rejects_are_refused_with_the_commonest_reasons(tmp_path: Path):
    records = texts(6) + [Record(f"e{i}", b"", None, None, None, None) for i in range(3)]
    records += [Record("gone", None, "file 'gone' is missing", None, None, None)]
    with pytest.raises(BadInput) as refusal:
        run(records, tmp_path / "a", max_rejects=0.3)
    message = str(refusal.value)
    assert "4 of 10 records of somewhere" in message and "max_rejects 0.3" in message
    assert "3×: the text is empty (first: e0)" in message and "1×: file 'gone'" in message
    run(records, tmp_path / "b", max_rejects=0.4)


def test_reasons_that_differ_in_names_and_numbers_are_one(tmp_path: Path):
    records = [Record(f"{i}", None, f"file '{i}.png' is missing", None, None, None) for i in "abc"]
    with pytest.raises(BadInput, match=r"3×: file 'a.png' is missing \(first: a\)"):
        run(records, tmp_path)


def test_fingerprints_are_those_of_the_modality(ingested: Path, modality: Modality):
    table = manifest(ingested)
    found = store.read_fingerprints(ingested, table["id"])
    for row, (_, payload) in list(enumerate(store.payloads(ingested)))[::7]:
        assert found.identity[row] == np.bytes_(modality.identity(payload))
        assert np.array_equal(found.signature[row], modality.signature(payload))


def test_what_annotators_said_of_kept_samples_is_kept(tmp_path: Path):
    said = [{"mary": "a", "bob": "b"}, {}, {"bob": "a"}, {"bob": "c"}]
    records = [r._replace(annotations=s) for r, s in zip(texts(4, label="a"), said, strict=True)]
    out = run([*records[:3], records[3]._replace(label="alone")], tmp_path, min_class_size=2)
    ids = manifest(out)["id"].tolist()
    rows = store.read_table(out / "annotations.parquet").to_numpy().tolist()
    assert rows == [[ids[0], "bob", "b"], [ids[0], "mary", "a"], [ids[2], "bob", "a"]]


def test_without_annotators_there_is_an_empty_table_of_them(tmp_path: Path):
    table = store.read_table(run(texts(3), tmp_path) / "annotations.parquet")
    assert table.empty and list(table.columns) == ["id", "annotator", "label"]


def test_targets_of_kept_samples_are_kept_beside_the_manifest(tmp_path: Path):
    told = ["one two", None, "3.5", "gone"]
    records = [r._replace(target=t) for r, t in zip(texts(4, label="a"), told, strict=True)]
    out = run([*records[:3], records[3]._replace(label="alone")], tmp_path, min_class_size=2)
    ids = manifest(out)["id"].tolist()
    assert store.read_targets(out) == {ids[0]: "one two", ids[2]: "3.5"}
    assert "target" not in manifest(out)


def test_without_targets_there_is_an_empty_table_and_what_asks_for_them_is_told(tmp_path: Path):
    out = run(texts(3, label="a", split="train"), tmp_path)
    assert list(store.read_table(out / "targets.parquet").columns) == ["id", "target"]
    with pytest.raises(ValueError, match=r"holds no targets: ingest\.source names none"):
        store.read_targets(out)


def test_samples_with_a_target_and_no_label_are_shared_out_to_the_splits(tmp_path: Path):
    records = [r._replace(target=str(i)) if i % 2 else r for i, r in enumerate(texts(100))]
    table = manifest(run(records, tmp_path))
    assert table["label"].isna().all()
    assert table["split"][1::2].value_counts().to_dict() == {"train": 30, "validation": 10, "test": 10}
    assert set(table["split"][::2]) == {"train"}


def test_an_empty_source_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="somewhere holds nothing"):
        run([], tmp_path)


def test_samples_without_any_label_are_all_for_training(tmp_path: Path):
    out = run(texts(5), tmp_path, label_noise=0.5)
    assert set(manifest(out)["split"]) == {"train"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["labelled"], metrics["classes"], metrics["planted"]) == (0, 0, 0)


# Planted labels.


@settings(deadline=None)
@given(
    rate=st.floats(0, 1),
    classes=st.integers(2, 5),
    seed=st.integers(0, 5),
    unlabelled=st.integers(0, 5),
)
def test_noise_is_exact_wrong_and_never_in_test(rate: float, classes: int, seed: int, unlabelled: int):
    labels = [f"c{i % classes}" for i in range(90)] + [None] * unlabelled
    splits = [store.SPLITS[i // 30] for i in range(90)] + ["train"] * unlabelled
    table = samples(labels, splits=splits)
    noisy = plant_noise(table, rate, np.random.default_rng(seed))
    wrong = (noisy != table["label"]) & table["label"].notna()
    for split, expected in (("train", round(rate * 30)), ("validation", round(rate * 30))):
        assert wrong[table["split"] == split].sum() == expected
    assert not wrong[table["split"] == "test"].any()
    assert noisy.isna().sum() == unlabelled and set(noisy.dropna()) <= set(table["label"].dropna())


def test_wrong_labels_are_uniform_over_the_other_classes():
    table = samples(list("abcd") * 1000, splits=["train"] * 4000)
    noisy = plant_noise(table, 1.0, np.random.default_rng(0))
    counts = pd.crosstab(table["label"], noisy).to_numpy()
    assert (np.diag(counts) == 0).all()
    assert np.abs(counts[~np.eye(4, dtype=bool)] - 1000 / 3).max() < 80


def test_true_labels_are_kept_aside(tmp_path: Path):
    records = [r._replace(label="ab"[i % 2]) for i, r in enumerate(texts(50))]
    out = run(records, tmp_path, label_noise=0.2)
    truth = store.read_table(out / "truth.parquet")
    table = manifest(out)
    assert truth["id"].tolist() == table["id"].tolist()
    assert truth["label"].tolist() == [r.label for r in records]
    planted = (truth["label"] != table["label"]).sum()
    assert planted == json.loads((out / "metrics.json").read_text())["planted"] == 8


def test_noise_needs_a_second_class():
    with pytest.raises(BadInput, match="second class beside 'a'"):
        plant_noise(samples(["a"] * 5, splits=["train"] * 5), 0.1, np.random.default_rng(0))
