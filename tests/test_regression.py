"""The brightness of images that differ in much else."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import tiny_trunk
import torch
import yaml
from conftest import png
from sklearn.metrics import mean_absolute_error, r2_score
from torch.nn import functional
from torch.utils.data import DataLoader

from winnow.data import ingest, store
from winnow.data.batches import UNLABELLED, Batch, Variants
from winnow.data.datamodule import Samples
from winnow.data.sources.tables import Table
from winnow.data.vision import Vision
from winnow.ssl import model as models
from winnow.ssl import train
from winnow.ssl.heads import Regressor
from winnow.ssl.regression import Regression

ROOT = Path(__file__).parents[1]
VISION = Vision(size=8, patch=4, channels=1)
ONE = Variants(number=1, strength=1.0)
NUMBERS = ["-3", "1e3", "40.5", "7"]


def encoder(root: Path) -> Path:
    root.mkdir()
    models.save(tiny_trunk.encoder(VISION), root)
    return root


def method(root: Path, **changed: Any) -> Regression:
    settings: dict[str, Any] = {"dropout": 0.0, "beta": 1.0, "optimization": tiny.OPTIMIZATION, "seed": 0}
    spread = (261.0, 427.0)
    torch.manual_seed(1)
    return Regression(VISION, NUMBERS, spread, encoder(root), **{**settings, **changed})


def batch(*labels: int) -> Batch:
    x = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(x, torch.tensor(labels), torch.arange(len(labels)))


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_cost_is_the_smooth_l1_of_standardized_numbers(tmp_path: Path, beta: float) -> None:
    training = method(tmp_path / "a", beta=beta).eval()
    one = batch(1, UNLABELLED, 2)
    total, number = training.costs(one)
    standard = training.regressor.head(
        training.regressor.encoder.pooled(training.regressor.encoder(one.x[[0, 2]]))
    )[:, 0]
    wanted = (torch.tensor([1e3, 40.5]) - 261) / 427
    torch.testing.assert_close(
        total, functional.smooth_l1_loss(standard, wanted, reduction="sum", beta=beta), atol=1e-5, rtol=1e-5
    )
    assert number == 2


@pytest.mark.parametrize(("word", "split"), [("validate", "val"), ("test", "test")])
def test_scores_are_scikit_learns_however_the_split_is_batched(tmp_path: Path, word: str, split: str) -> None:
    training = method(tmp_path / "a")
    whole = batch(0, 1, 2, 3, UNLABELLED, 1, 0)
    parts = [Batch(*(part[i:j] for part in whole)) for i, j in ((0, 3), (3, 7))]
    loader = DataLoader(parts, batch_size=None)  # type: ignore[arg-type]
    (seen,) = getattr(tiny.trainer(1), word)(training, loader, verbose=False)
    told = [0, 1, 2, 3, 5, 6]
    with torch.no_grad():
        said = training.eval().regressor(whole.x[told]).numpy()
    wanted = [float(NUMBERS[i]) for i in whole.label[told].tolist()]
    assert seen[f"{split}/mae"] == pytest.approx(mean_absolute_error(wanted, said), rel=1e-5)
    assert seen[f"{split}/r2"] == pytest.approx(r2_score(wanted, said), rel=1e-4)
    assert set(seen) == {f"{split}/{name}" for name in ("loss", "mae", "r2")}


def test_a_regressor_comes_back_with_its_unit(tmp_path: Path) -> None:
    regressor = method(tmp_path / "a").kept.eval()
    (tmp_path / "kept").mkdir()
    models.save(regressor, tmp_path / "kept")
    back = models.load(tmp_path / "kept")
    assert isinstance(back, Regressor)
    x = batch(0, 1).x
    assert torch.equal(back(x), regressor(x))
    assert back.center == 261 and back.scale == 427


# --- on the command line ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `ingest` leaves of 120 noisy images, whose target is their mean in per cent and an offset."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    lines = ["file,brightness"]
    for number in range(120):
        level = random.uniform(40, 215)
        pixels = (level + random.normal(0, 30, (8, 8))).clip(0, 255).astype(np.uint8)
        (root / f"{number}.png").write_bytes(png(pixels))
        lines.append(f"{number}.png,{1000 + pixels.mean() / 2.55:.3f}")
    (root / "t.csv").write_text("\n".join(lines) + "\n")
    out = root / "ingest"
    out.mkdir()
    ingest.main(
        VISION,
        root,
        out,
        source=Table(table="t.csv", path="file", target="brightness"),
        splits=ingest.Splits(validation=0.2, test=0.2),
        min_class_size=1,
        max_rejects=0.0,
        label_noise=0.0,
        seed=0,
        engine="local",
        workers=1,
    )
    return out


def test_learns_brightness_and_tells_it_of_new_images(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load((ROOT / "examples" / "regression.yaml").read_text(encoding="utf-8"))
    settings["data"] |= {"modality": models.section(VISION), "ingest": str(images), "labels": str(images)}
    settings["model"] |= {"encoder": str(encoder(tmp_path / "encoder")), "dropout": 0.0}
    settings["model"]["optimization"]["lr"] = 0.005
    settings["trainer"] |= {"max_steps": 80, "val_check_interval": 80, "log_every_n_steps": 20}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for word, *words in (
        ("fit",),
        ("test", "--ckpt_path", "logs/regression/checkpoints/last.ckpt"),
        (
            "predict",
            "--ckpt_path",
            "logs/regression/checkpoints/last.ckpt",
            "--data.targets",
            "null",
            "--out",
            "out",
        ),
    ):
        monkeypatch.setattr("sys.argv", ["regression", word, "--config", "config.yaml", *words])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        train.command_line(Regression)
        torch.set_num_threads(threads)
    seen = pd.read_csv("logs/regression/test/metrics.csv").iloc[-1]
    assert seen["test/r2"] > 0.9
    table = pd.read_parquet("out")
    manifest = store.read_table(images / "manifest.parquet")
    assert list(table.columns) == ["id", "value"]
    test = (manifest["split"] == "test").to_numpy()
    told = np.array([float(text) for text in store.read_targets(images).values()])
    assert np.abs(table["value"] - told)[test].mean() == pytest.approx(seen["test/mae"], rel=1e-3)
    assert isinstance(models.load(Path("logs/regression/model")), Regressor)


def test_numbers_are_standardized_by_the_train_split(images: Path) -> None:
    settings = {"batch_size": 8, "streaming": None, "variants": ONE, "labelled": True, "seed": 0}
    data = Samples(VISION, images, images, **settings, targets="numbers")
    manifest = store.read_table(images / "manifest.parquet")
    told = np.array([float(text) for text in store.read_targets(images).values()])
    train = told[(manifest["split"] == "train").to_numpy()]
    assert data.spread() == (pytest.approx(train.mean()), pytest.approx(train.std()))
    assert Samples(VISION, images, images, **settings).spread() == (0.0, 1.0)


@pytest.mark.parametrize("bad", ["dark", "nan", "inf", "1,5"])
def test_a_target_that_is_no_number_is_named_with_its_source(images: Path, tmp_path: Path, bad: str) -> None:
    out = tmp_path / "ingest"
    shutil.copytree(images, out)
    table = store.read_table(out / "targets.parquet")
    train = store.read_table(out / "manifest.parquet").query("split == 'train'")
    table.loc[table["id"] == train["id"].iloc[3], "target"] = bad
    store.write_table(out / "targets.parquet", table)
    settings = {"batch_size": 8, "streaming": None, "variants": ONE, "labelled": True, "seed": 0}
    with pytest.raises(ValueError, match="1 of 72 samples have a target that is no number") as error:
        Samples(VISION, out, out, **settings, targets="numbers").read("train")
    assert f"{train['source'].iloc[3]} with {bad!r}" in str(error.value)
