"""Which corners of an image are bright: none, one or more."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tiny
import tiny_trunk
import torch
import yaml
from conftest import png
from sklearn.metrics import average_precision_score, f1_score
from torch.nn import functional
from torch.utils.data import DataLoader

from winnow.data import ingest, store
from winnow.data.batches import UNLABELLED, Batch
from winnow.data.sources.tables import Table
from winnow.data.vision import Vision
from winnow.ssl import model as models
from winnow.ssl import train
from winnow.ssl.heads import Tagger
from winnow.ssl.tagging import Tagging

ROOT = Path(__file__).parents[1]
VISION = Vision(size=8, patch=4, channels=1)
CORNERS = {"left": (0, 0), "right": (0, 4), "below": (4, 0)}
SETS = ["left|right", "|", "below", " right | below|"]


def encoder(root: Path) -> Path:
    if not root.exists():
        root.mkdir()
        models.save(tiny_trunk.encoder(VISION), root)
    return root


def method(root: Path, targets: list[str] = SETS, **changed: Any) -> Tagging:
    settings: dict[str, Any] = {
        "dropout": 0.0,
        "separator": "|",
        "optimization": tiny.OPTIMIZATION,
        "seed": 0,
    }
    torch.manual_seed(1)
    return Tagging(VISION, targets, encoder=encoder(root), **{**settings, **changed})


def batch(*labels: int) -> Batch:
    x = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(x, torch.tensor(labels), torch.arange(len(labels)))


def test_a_set_is_what_stands_between_separators_and_may_be_empty(tmp_path: Path) -> None:
    training = method(tmp_path / "a")
    assert training.classes == ["below", "left", "right"]
    assert training.sets == [{"left", "right"}, set(), {"below"}, {"right", "below"}]


def test_the_cost_is_the_binary_cross_entropy_over_samples_and_labels(tmp_path: Path) -> None:
    training = method(tmp_path / "a").eval()
    one = batch(0, UNLABELLED, 1, 3)
    total, number = training.costs(one)
    wanted = torch.tensor([[0.0, 1, 1], [0, 0, 0], [1, 0, 1]])
    logits = training.tagger(one.x[[0, 2, 3]])
    torch.testing.assert_close(total / number, functional.binary_cross_entropy_with_logits(logits, wanted))
    assert number == 9


@pytest.mark.parametrize(("word", "split"), [("validate", "val"), ("test", "test")])
def test_scores_are_scikit_learns_however_the_split_is_batched(tmp_path: Path, word: str, split: str) -> None:
    training = method(tmp_path / "a")
    whole = batch(0, 1, 2, 3, UNLABELLED, 1, 0, 2)
    parts = [Batch(*(part[i:j] for part in whole)) for i, j in ((0, 3), (3, 8))]
    loader = DataLoader(parts, batch_size=None)  # type: ignore[arg-type]
    (seen,) = getattr(tiny.trainer(1), word)(training, loader, verbose=False)
    told = [0, 1, 2, 3, 5, 6, 7]
    with torch.no_grad():
        logits = training.eval().tagger(whole.x[told]).numpy()
    holds = np.array(
        [[name in training.sets[i] for name in training.classes] for i in whole.label[told].tolist()]
    )
    assert seen[f"{split}/mean_average_precision"] == pytest.approx(average_precision_score(holds, logits))
    assert seen[f"{split}/f1"] == pytest.approx(f1_score(holds, logits >= 0, average="micro"))
    for name, of_one in zip(training.classes, f1_score(holds, logits >= 0, average=None), strict=True):
        assert seen[f"{split}/f1/{name}"] == pytest.approx(of_one)


def test_a_label_that_holds_nowhere_in_a_split_has_no_average_precision(tmp_path: Path) -> None:
    for targets in (SETS, ["alone", "|"]):
        training = method(tmp_path / "a", targets)
        loader = DataLoader([batch(0, 1, 0, 1)], batch_size=None)  # type: ignore[arg-type]
        (seen,) = tiny.trainer(1).validate(training, loader, verbose=False)
        with torch.no_grad():
            likely = training.eval().tagger(batch(0, 1, 0, 1).x)
        there = [i for i, name in enumerate(training.classes) if name in training.sets[0]]
        wanted = np.mean([average_precision_score([1, 0, 1, 0], likely[:, i]) for i in there])
        assert seen["val/mean_average_precision"] == pytest.approx(wanted)


def test_a_tagger_comes_back_as_it_was_saved_and_is_no_classifier(tmp_path: Path) -> None:
    tagger = method(tmp_path / "a").kept.eval()
    (tmp_path / "kept").mkdir()
    models.save(tagger, tmp_path / "kept")
    back = models.load(tmp_path / "kept")
    assert isinstance(back, Tagger) and back.classes == ["below", "left", "right"]
    x = batch(0, 1).x
    assert torch.equal(back(x), tagger(x))
    with pytest.raises(ValueError, match="holds a Tagger"):
        models.load_classifier(tmp_path / "kept")


def test_a_checkpoint_scores_samples_with_some_of_its_labels_and_no_others(tmp_path: Path) -> None:
    loader = DataLoader([batch(0, 1)], batch_size=None)  # type: ignore[arg-type]
    trainer = tiny.trainer(1)
    trainer.fit(method(tmp_path / "a"), loader, loader)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    fewer = method(tmp_path / "a", ["left|right", "|"])
    tiny.trainer(1).validate(fewer, loader, tmp_path / "last.ckpt", verbose=False)
    assert fewer.classes == ["below", "left", "right"]
    other = method(tmp_path / "a", ["left|above", "|"])
    with pytest.raises(ValueError, match=r"labels \['above'\] are none of those learned"):
        tiny.trainer(1).test(other, loader, tmp_path / "last.ckpt", verbose=False)
    with pytest.raises(ValueError, match="the checkpoint knows the labels"):
        tiny.trainer(2).fit(
            method(tmp_path / "a", ["left", "|"]), loader, loader, ckpt_path=tmp_path / "last.ckpt"
        )


def test_learns_bright_corners_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    lines = ["file,corners"]
    for number in range(160):
        pixels = random.integers(0, 100, (8, 8))
        chosen = [name for name in CORNERS if random.random() < 0.4]
        for row, column in (CORNERS[name] for name in chosen):
            pixels[row : row + 4, column : column + 4] += 120
        (tmp_path / f"{number}.png").write_bytes(png(pixels.astype(np.uint8)))
        lines.append(f"{number}.png,{'|'.join(chosen) or '|'}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    samples = tmp_path / "ingest"
    samples.mkdir()
    ingest.main(
        VISION,
        tmp_path,
        samples,
        source=Table(table="t.csv", path="file", target="corners"),
        splits=ingest.Splits(validation=0.2, test=0.2),
        min_class_size=1,
        max_rejects=0.0,
        label_noise=0.0,
        seed=0,
        engine="local",
        workers=1,
    )
    settings = yaml.safe_load((ROOT / "examples" / "tagging.yaml").read_text(encoding="utf-8"))
    settings["data"] |= {"modality": models.section(VISION), "ingest": str(samples), "labels": str(samples)}
    settings["model"] |= {"encoder": str(encoder(tmp_path / "encoder")), "dropout": 0.0}
    settings["model"]["optimization"]["lr"] = 0.005
    settings["trainer"] |= {"max_steps": 100, "val_check_interval": 100, "log_every_n_steps": 20}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    last = ["--ckpt_path", "logs/tagging/checkpoints/last.ckpt"]
    for words in (["fit"], ["test", *last], ["predict", *last, "--data.targets", "null", "--out", "out"]):
        monkeypatch.setattr("sys.argv", ["tagging", words[0], "--config", "config.yaml", *words[1:]])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        train.command_line(Tagging)
        torch.set_num_threads(threads)
    seen = pd.read_csv("logs/tagging/test/metrics.csv").iloc[-1]
    assert seen["test/mean_average_precision"] > 0.95 and seen["test/f1"] > 0.9
    table = pd.read_parquet("out")
    assert list(table.columns) == ["id", "labels", "pred_probs"]
    metadata = pq.read_schema("out/00000.parquet").metadata[b"classes"]
    assert yaml.safe_load(metadata) == ["below", "left", "right"]
    told = store.read_targets(samples)
    right = [
        set(filter(None, told[row.id].split("|"))) == set(filter(None, row.labels.split("|")))
        for row in table.itertuples()
    ]
    assert np.mean(right) > 0.85
