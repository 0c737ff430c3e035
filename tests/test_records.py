"""What the sources share, and that what their documentation says to write can be written."""

import importlib.util
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import png, tone, wav
from hypothesis import given
from hypothesis import strategies as st
from rawdata import picture, write_commands, write_csv, write_idx, write_shards

from winnow.data import ingest, stage, store
from winnow.data.sources.records import Record, as_name, majority

ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "sources.md").read_text(), re.DOTALL)


def write_flowers(root: Path) -> Path:
    for number in range(12):
        path = root / ("train", "test")[number // 8] / ("daisy", "rose")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture(number)))
    return root


def write_words(root: Path) -> Path:
    for number in range(8):
        path = root / ("yes", "no")[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav(tone(200 + 20 * number, 0.4, seed=number)))
    return root


def write_calls(root: Path) -> Path:
    write_words(root / "clips")
    clips = sorted(path.relative_to(root / "clips") for path in (root / "clips").rglob("*.wav"))
    rows = [(str(clip), clip.parts[0], f"s{number % 4}") for number, clip in enumerate(clips)]
    write_csv(root / "labels.csv", ("file", "word", "speaker"), *rows)
    return root


def write_reviews(path: Path) -> Path:
    rows = [
        (f"review number {i}", ("bad", "good")[i % 2], ("train", "dev", "test")[i % 3]) for i in range(12)
    ]
    return write_csv(path, ("review", "stars", "part"), *rows)


def write_questions(path: Path) -> Path:
    rows = [
        {"title": f"question {i}", "body": f"and body {i}", "topic": "ab"[i % 2], "author": f"w{i // 2}"}
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_tickets(path: Path) -> Path:
    rows = [{"text": f"ticket number {i}", "queue": "ab"[i % 2], "number": 100 + i} for i in range(12)]
    pd.DataFrame(rows).to_parquet(path)
    return path


def write_crowd(path: Path) -> Path:
    rows = [(f"message {i}", "spam", ("spam", "ham")[i % 2], ("", "ham")[i % 2]) for i in range(12)]
    return write_csv(path, ("text", "ann", "bob", "eve"), *rows)


def write_saved(root: Path) -> Path:
    """AG News in small, as `save_to_disk` leaves it."""
    datasets = pytest.importorskip("datasets")
    names = ["World", "Sports", "Business", "Sci/Tech"]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    parts = {
        split: datasets.Dataset.from_dict(
            {"text": [f"{split} text {i}" for i in range(8)], "label": [i % 4 for i in range(8)]},
            features=features,
        )
        for split in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(root / "ag_news")
    return root


def write_parquet(root: Path) -> Path:
    """Images as the Hub stores them: bytes in a Parquet file that says what its columns are."""
    datasets = pytest.importorskip("datasets")
    root.mkdir(parents=True)
    kinds = {"image": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
    features = datasets.Features({**kinds, "camera": datasets.Value("string")})
    for split, first in (("train", 0), ("test", 8)):
        rows = {
            "image": [{"bytes": png(picture(first + i)), "path": f"{i}.png"} for i in range(8)],
            "kind": [i % 2 for i in range(8)],
            "camera": [f"{split} {i // 2}" for i in range(8)],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}-00000.parquet")
    return root


# What lies at the paths of the documentation, and how many inputs there are.
RAW: dict[str, tuple[Callable[[Path], Path], int]] = {
    "raw/flowers": (write_flowers, 12),
    "raw/words": (write_words, 8),
    "raw/calls": (write_calls, 8),
    "raw/reviews.csv": (write_reviews, 12),
    "raw/questions.jsonl": (write_questions, 12),
    "raw/tickets.parquet": (write_tickets, 12),
    "raw/crowd.csv": (write_crowd, 12),
    "raw/torchvision": (write_idx, 15),
    "raw/torchaudio": (write_commands, 8),
    "raw/huggingface": (write_saved, 16),
    "raw/parquet": (write_parquet, 16),
    "raw/shards": (write_shards, 18),
}
# Of those that take a part of it.
PARTS = {"splits: {train: {train: true}}": 9, "{subset: training}": 6, "webdataset:": 12}


@pytest.fixture
def run_ingest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Run the stage with the project's numbers and a source: its output."""

    def run(modality: str, raw: str, source: Any) -> Path:
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        # Too few to share out: what the source puts in no split is for training.
        small = {"min_class_size": 1, "splits": {"validation": 0, "test": 0}}
        params[modality]["ingest"] |= {"source": source, "label_noise": 0, **small}
        Path("params.yaml").write_text(yaml.safe_dump(params))
        out = Path("out") / modality / "ingest"
        monkeypatch.setattr(sys, "argv", ["ingest", modality, raw, str(out)])
        stage.run(ingest.main)
        return tmp_path / out

    if importlib.util.find_spec("datasets"):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()
    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def title(snippet: str) -> str:
    shown = yaml.safe_load(snippet)
    (path,) = shown["sources"].values()
    (section,) = (value for key, value in shown.items() if key != "sources")
    source = section["ingest"]["source"]
    return f"{path} {source if isinstance(source, str) else source['class_path'].rpartition('.')[2]}"


@pytest.mark.parametrize("snippet", SNIPPETS, ids=title)
def test_every_snippet_of_the_documentation_runs(snippet: str, run_ingest: Callable[..., Path]):
    shown = yaml.safe_load(snippet)
    ((modality, raw),) = shown["sources"].items()
    write, inputs = RAW[raw]
    write(Path(raw))
    out = run_ingest(modality, raw, shown[modality]["ingest"]["source"])
    manifest = store.read_table(out / "manifest.parquet")
    inputs = next((count for part, count in PARTS.items() if part in snippet), inputs)
    if "Joined" in snippet:
        assert len(store.read_targets(out)) == len(manifest) == 20
        assert manifest["label"].isna().all() and manifest["group"].nunique() == 4
        return
    assert len(manifest) == inputs and len(store.read_table(out / "rejects.parquet")) == 0
    assert manifest["label"].notna().all() and manifest["label"].nunique() >= 2
    grouped = any(key in snippet for key in ("group:", "SPEECHCOMMANDS", "shards"))
    assert manifest["group"].notna().all() == grouped
    said = store.read_table(out / "annotations.parquet")
    assert sorted(said["annotator"].unique()) == (["ann", "bob", "eve"] if "annotators" in snippet else [])


def test_an_unknown_shorthand_names_the_known_ones(run_ingest: Callable[..., Path]):
    write_reviews(Path("raw/reviews.csv"))
    for source in ("tensorflow:mnist", "hf:", "torchvision"):
        with pytest.raises(SystemExit) as stop:
            run_ingest("text", "raw/reviews.csv", source)
        said = str(stop.value.code)
        assert "params.yaml: text.ingest" in said and repr(source) in said
        assert "torchvision:…, torchaudio:…, hf:…, webdataset:…" in said


def test_a_dataset_that_a_library_does_not_have_is_named(run_ingest: Callable[..., Path]):
    Path("raw/empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        run_ingest("vision", "raw/empty", "torchvision:FashionMNITS")
    assert "no dataset 'FashionMNITS'" in str(stop.value.code) and "FashionMNIST" in str(stop.value.code)


def test_a_record_without_annotators_has_no_annotations():
    assert dict(Record("a", b"", None, None, None, None).annotations) == {}


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=7))
def test_no_label_has_more_votes_than_the_majority(votes: list[str]):
    chosen = majority({f"annotator {i}": vote for i, vote in enumerate(votes)})
    most = max(map(votes.count, votes))
    assert chosen == next(vote for vote in votes if votes.count(vote) == most)


def test_nobody_has_no_majority():
    assert majority({}) is None


@pytest.mark.parametrize(
    ("value", "name"),
    [(None, None), (float("nan"), None), (" ", None), (3.0, "3"), (2.5, "2.5"), (0, "0"), (np.int64(7), "7")],
)
def test_a_name_is_the_value_however_its_format_spells_it(value: Any, name: str | None):
    assert as_name(value) == name
