import itertools
import shutil
from pathlib import Path

import pandas as pd
import pytest
import runs
import torch
from conftest import Kind
from torch import Tensor

from winnow.data import store
from winnow.data.batches import UNLABELLED, Variants, stream
from winnow.data.datamodule import Samples
from winnow.data.modality import Modality, build
from winnow.data.store import read_classes
from winnow.data.streaming import Streaming

ONE = Variants(number=1, strength=1.0)


def samples(
    modality: Modality,
    ingest: Path,
    labels: Path,
    labelled: bool = True,
    streaming: Streaming | None = None,
) -> Samples:
    return Samples(
        modality,
        ingest,
        labels,
        batch_size=8,
        streaming=streaming,
        variants=ONE,
        labelled=labelled,
        seed=0,
    )


def test_a_split_is_its_samples_in_the_order_of_the_manifest(modality: Modality, ingested: Path) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    classes = read_classes(ingested)
    payloads = dict(store.payloads(ingested))
    data = samples(modality, ingested, ingested)
    assert data.classes == classes == sorted(set(manifest["label"]))
    for split in store.SPLITS:
        part, read = manifest[manifest["split"] == split], data.read(split)
        wanted = torch.stack([modality.load(payloads[id_]) for id_ in part["id"]])
        assert torch.equal(read.x, wanted)
        assert [classes[i] for i in read.label.tolist()] == list(part["label"])


def test_what_is_drawn_of_a_split_is_labelled_and_the_same_each_time(
    modality: Modality, ingested: Path, tmp_path: Path
) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    train = manifest[manifest["split"] == "train"]
    unlabelled = {id_: None for id_ in train["id"][5:]}
    labels = runs.decide(ingested, tmp_path / "labels", **unlabelled)
    data = samples(modality, ingested, labels, labelled=False)
    some = data.drawn("train", 3)
    assert torch.equal(some.x, samples(modality, ingested, labels, labelled=False).drawn("train", 3).x)
    assert len(some.x) == 3 and UNLABELLED not in some.label.tolist()
    classes = read_classes(ingested)
    every = [classes[label] for label in data.drawn("train", 99).label.tolist()]
    assert sorted(every) == sorted(train["label"][:5])
    with pytest.raises(ValueError, match="no labelled sample in the train split"):
        none = runs.decide(ingested, tmp_path / "none", **{id_: None for id_ in train["id"]})
        samples(modality, ingested, none, labelled=False).drawn("train", 3)


def test_drops_and_new_labels_are_followed(modality: Modality, ingested: Path, tmp_path: Path) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    train = manifest[manifest["split"] == "train"]
    dropped, other, unlabelled = train["id"][:3]
    new = next(c for c in read_classes(ingested) if c != train["label"].iloc[1])
    labels = runs.decide(ingested, tmp_path / "labels", dropped, **{other: new, unlabelled: None})

    everything = samples(modality, ingested, labels, labelled=False).read("train")
    assert len(everything.x) == len(train) - 1
    assert everything.label[0] == read_classes(ingested).index(new)
    assert everything.label[1] == UNLABELLED
    labelled = samples(modality, ingested, labels).read("train")
    assert len(labelled.x) == len(train) - 2
    assert UNLABELLED not in labelled.label


def write_targets(ingested: Path, out: Path, targets: dict[str, str]) -> Path:
    """Copy what `ingest` wrote, with targets."""
    shutil.copytree(ingested, out)
    table = pd.DataFrame({"id": list(targets), "target": list(targets.values())}, dtype=object)
    store.write_table(out / "targets.parquet", table)
    return out


def test_targets_are_learned_in_place_of_labels(modality: Modality, ingested: Path, tmp_path: Path) -> None:
    ids = store.read_table(ingested / "manifest.parquet")["id"]
    targets = {id_: f"said {number % 40}" for number, id_ in enumerate(ids) if number % 3}
    ingest = write_targets(ingested, tmp_path / "ingest", targets)
    for streaming in (None, Streaming(workers=0, buffer=4)):
        settings = {"batch_size": 8, "streaming": streaming, "variants": ONE, "labelled": True, "seed": 0}
        data = Samples(modality, ingest, ingest, **settings, targets="sets")
        assert data.classes == sorted(set(targets.values()))
        for split in store.SPLITS:
            manifest = store.read_table(ingest / "manifest.parquet")
            wanted = [targets[id_] for id_ in manifest["id"][manifest["split"] == split] if id_ in targets]
            label = torch.cat([batch.label for batch in data.batches(split, 8)])
            assert [data.classes[i] for i in label.tolist()] == wanted
        everything = Samples(modality, ingest, ingest, **settings | {"labelled": False}, targets="sets")
        label = everything.read("train").label
        assert UNLABELLED in label and len(label) > len(data.read("train").label)


def test_samples_that_are_cut_have_no_transcript(
    kind: Kind, modality: Modality, ingested: Path, tmp_path: Path
) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    ingest = write_targets(ingested, tmp_path / "ingest", dict.fromkeys(manifest["id"], "said"))
    shorter = {"speech": {"seconds": 0.32}, "text": {"length": 12}, "vision": {}}[kind.name]
    section = {**kind.section, "init_args": {**kind.section["init_args"], **shorter}}
    settings = {"batch_size": 8, "streaming": None, "variants": ONE, "labelled": True, "seed": 0}
    Samples(modality, ingest, ingest, **settings, targets="transcripts").read("train")
    data = Samples(build(section), ingest, ingest, **settings, targets="transcripts")
    if kind.name == "vision":  # these are square
        data.read("train")
        return
    with pytest.raises(ValueError, match=r"\d+ of \d+ samples are longer than what is read of them"):
        data.read("train")
    Samples(build(section), ingest, ingest, **settings, targets="sets").read("train")


def test_training_batches_hold_variants_of_training_samples_alone(modality: Modality, ingested: Path) -> None:
    data = samples(modality, ingested, ingested)
    train = data.read("train")
    number = len(train.x)
    taken = list(itertools.islice(data.train_dataloader(), -(-number // 8)))
    assert [len(batch.x) for batch in taken] == [8] * len(taken)
    # An epoch of batches has the labels of the train split, and each sample varied by its generator.
    labels = torch.cat([batch.label for batch in taken])[:number]
    assert torch.equal(labels.sort().values, train.label.sort().values)
    order = torch.randperm(number, generator=stream(0, "order", 0))
    wanted = [modality.transform(train.x[i], stream(0, "variant", at), 1.0) for at, i in enumerate(order[:8])]
    assert torch.equal(taken[0].x, torch.stack(wanted))


@pytest.mark.parametrize("streaming", [None, Streaming(workers=0, buffer=8), Streaming(workers=2, buffer=8)])
def test_validation_and_test_are_whole_splits_unchanged_and_in_order(
    modality: Modality, ingested: Path, streaming: Streaming | None
) -> None:
    data = samples(modality, ingested, ingested, streaming=streaming)
    loaders = {"validation": data.val_dataloader(), "test": data.test_dataloader()}
    for split, loader in loaders.items():
        taken = list(loader)
        assert torch.equal(torch.cat([batch.x for batch in taken]), data.read(split).x)
        assert torch.equal(torch.cat([batch.label for batch in taken]), data.read(split).label)


def test_a_sample_is_decoded_once_however_often_it_is_read(ingested: Path, kind: Kind) -> None:
    loads: list[bytes] = []
    made = build(kind.section)

    class Counting(type(made)):  # type: ignore[misc]
        def load(self, payload: bytes) -> Tensor:
            loads.append(payload)
            return super().load(payload)

    data = samples(Counting(**kind.section["init_args"]), ingested, ingested)
    for _ in range(2):
        list(itertools.islice(data.train_dataloader(), 20))
        list(data.val_dataloader())
        data.read("train")
    manifest = store.read_table(ingested / "manifest.parquet")
    used = manifest[manifest["split"] != "test"]["id"]
    assert sorted(loads) == sorted(raw for _, raw in store.payloads(ingested, used))


def test_a_split_without_a_usable_sample_is_an_error(
    modality: Modality, ingested: Path, tmp_path: Path
) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    part = manifest[manifest["split"] == "validation"]["id"]
    labels = runs.decide(ingested, tmp_path / "labels", **dict.fromkeys(part))
    assert len(samples(modality, ingested, labels, labelled=False).read("validation").x) == len(part)
    with pytest.raises(ValueError, match="no usable sample in the validation split"):
        samples(modality, ingested, labels).read("validation")
