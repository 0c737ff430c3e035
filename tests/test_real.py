"""The example on real data; what needs the datasets themselves is skipped where they are absent."""

import importlib.util
import os
from pathlib import Path

import pytest
import yaml

from winnow.data import ingest, modality, store
from winnow.data.sources import tables

ROOT = Path(__file__).parents[1]
DATASETS = Path(os.environ.get("WINNOW_DATASETS", ROOT.parent / "shared" / "datasets"))
absent = pytest.mark.skipif(not DATASETS.is_dir(), reason=f"no real datasets in {DATASETS.name}/")


def _example():
    spec = importlib.util.spec_from_file_location("real", ROOT / "examples" / "real.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_laid_over_replaces_leaves_and_sources_and_keeps_the_rest():
    numbers = {"a": {"x": 1, "y": {"z": 2}}, "source": {"class_path": "A", "init_args": {"n": 1}}}
    changes = {"a": {"y": {"z": 3}}, "source": {"class_path": "B"}}
    assert _example().laid_over(numbers, changes) == {
        "a": {"x": 1, "y": {"z": 3}},
        "source": {"class_path": "B"},
    }


def test_every_change_of_the_example_names_a_key_that_the_pipeline_has():
    numbers, changes = (
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (ROOT / "params.yaml", ROOT / "examples" / "real.yaml")
    )

    def unknown(base, laid, path=""):
        for key, value in laid.items():
            if key not in base:
                yield f"{path}{key}"
            elif isinstance(value, dict) and key != "source":
                yield from unknown(base[key], value, f"{path}{key}.")

    assert list(unknown(numbers, changes)) == []


@absent
def test_free_spoken_digits_come_in_whole_with_whole_speakers_held_out(tmp_path: Path):
    example = _example()
    example.main(DATASETS, tmp_path)
    section = yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8"))["speech"]
    source = section["ingest"]["source"]
    assert source["class_path"] == "winnow.data.sources.tables.Table"
    out = tmp_path / "out"
    out.mkdir()
    ingest.main(
        modality.build(section["modality"]),
        tmp_path / "sources" / "speech",
        out,
        source=tables.Table(**source["init_args"]),
        splits=ingest.Splits(validation=0.15, test=0.2),
        min_class_size=5,
        max_rejects=0.0,
        label_noise=0.0,
        seed=0,
        engine="local",
        workers=1,
    )
    manifest = store.read_table(out / "manifest.parquet")
    assert len(manifest) == 3000 and manifest["label"].nunique() == 10
    assert manifest["group"].nunique() == 6
    assert (manifest.groupby("group")["split"].nunique() == 1).all()
