"""Words of three tones, joined to strings: learned, scored and written down by the command line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from conftest import tone, wav
from tiny_trunk import SHAPE

from winnow.data import ingest, store
from winnow.data.sources.joined import Joined
from winnow.data.sources.tables import Table
from winnow.data.speech import Speech
from winnow.ssl import model as models
from winnow.ssl import train
from winnow.ssl.heads import Recognizer
from winnow.ssl.recognition import Recognition, error_counts
from winnow.ssl.trunk import Encoder

ROOT = Path(__file__).parents[1]
SPEECH = Speech(sample_rate_hz=8000, seconds=1.0, mels=16, frames_per_token=2)
WORDS = {"lo": 250.0, "mi": 600.0, "hi": 1400.0}


def command_line(patch: pytest.MonkeyPatch, *words: Any) -> None:
    patch.setattr("sys.argv", ["recognition", *map(str, words)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train.command_line(Recognition)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def strings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `ingest` leaves of 160 strings of words by eight speakers, of whom some are held out."""
    root = tmp_path_factory.mktemp("strings")
    lines = ["file,word,speaker"]
    for speaker in range(8):
        for word, hertz in WORDS.items():
            for take in range(3):
                name = f"{speaker}-{word}-{take}.wav"
                seconds = 0.12 + 0.03 * take
                seed = 100 * speaker + 10 * take + len(word)
                (root / name).write_bytes(wav(tone(hertz * 1.03**speaker, seconds, seed=seed)))
                lines.append(f"{name},{word},s{speaker}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    source = Joined(
        Table(table="labels.csv", path="file", label="word", group="speaker"),
        strings=160,
        length=(1, 4),
        silence_seconds=(0.02, 0.06),
        max_seconds=1.0,
        sample_rate_hz=8000,
    )
    out = root / "ingest"
    out.mkdir()
    ingest.main(
        SPEECH,
        root,
        out,
        source=source,
        splits=ingest.Splits(validation=0.2, test=0.2),
        min_class_size=1,
        max_rejects=0.0,
        label_noise=0.0,
        seed=0,
        engine="local",
        workers=1,
    )
    return out


@pytest.fixture(scope="module")
def config(strings: Path) -> Path:
    """The example's config, of these strings and of a network that learns them in seconds."""
    settings = yaml.safe_load((ROOT / "examples" / "recognition.yaml").read_text(encoding="utf-8"))
    encoder = strings.parent / "encoder"
    encoder.mkdir()
    torch.manual_seed(0)
    models.save(Encoder(SPEECH, replace(SHAPE, dim=32)), encoder)
    settings["model"] |= {"encoder": str(encoder), "dropout": 0.0, "beam": 4}
    settings["model"]["optimization"]["lr"] = 0.005
    settings["data"] |= {"modality": models.section(SPEECH), "ingest": str(strings), "labels": str(strings)}
    settings["trainer"] |= {
        "max_steps": 120,
        "val_check_interval": 120,
        "log_every_n_steps": 20,
        "default_root_dir": str(strings.parent),
    }
    path = strings.parent / "config.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(config: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(config.parent)
        command_line(patch, "fit", "--config", config)
    return config.parent / "logs" / "recognition"


def test_learns_to_write_down_strings_of_unheard_speakers(strings: Path, trained: Path) -> None:
    recognizer = models.load(trained / "model")
    assert isinstance(recognizer, Recognizer)
    seen = pd.read_csv(trained / "metrics.csv")["val/wer"].dropna()
    assert seen.iloc[-1] < 0.2


def test_new_recordings_are_written_down_without_transcripts_as_test_scores_them(
    strings: Path, config: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--config", config, "--ckpt_path", trained / "checkpoints/last.ckpt"]
    monkeypatch.chdir(config.parent)
    command_line(monkeypatch, "test", *given)
    targets = store.read_targets(strings)
    aside = strings / "targets.parquet"
    aside = aside.rename(tmp_path / aside.name)
    try:
        with pytest.raises(ValueError, match=r"to predict, set data\.targets to null"):
            command_line(monkeypatch, "predict", *given, "--out", tmp_path / "predicted")
        given += ["--data.targets", "null"]
        command_line(monkeypatch, "predict", *given, "--out", tmp_path / "predicted")
    finally:
        aside.rename(strings / aside.name)

    table = pd.read_parquet(tmp_path / "predicted")
    assert list(table.columns) == ["id", "transcript", "greedy"]
    manifest = store.read_table(strings / "manifest.parquet")
    assert list(table["id"]) == list(manifest["id"])
    part = table[(manifest["split"] == "test").to_numpy()]
    seen = pd.read_csv(trained / "test" / "metrics.csv").iloc[-1]
    for column, prefix in (("transcript", "beam_"), ("greedy", "")):
        wanted = error_counts(list(part[column]), [targets[id_] for id_ in part["id"]])
        for name, (edits, number) in wanted.items():
            assert seen[f"test/{prefix}{name}"] == pytest.approx(edits / number), (prefix, name)
    assert seen["test/wer"] < 0.25


def test_the_config_that_is_printed_is_whole(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command_line(monkeypatch, "fit", "--config", config, "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load(config.read_text(encoding="utf-8"))
    assert printed["data"]["targets"] == "transcripts"
    for part in ("model", "data", "trainer"):
        assert {name: printed[part][name] for name in given[part]} == given[part]
