"""What pretraining is worth to a recognizer of speech; prints a Markdown table.

`python -m bench.recognition digits WORKSPACE`
    strings of one to four spoken digits, joined from Free Spoken Digits as `make real` lays them out in
    WORKSPACE; validation and test are one speaker each, who is in no other split
`python -m bench.recognition sentences`
    sentences of five words, spoken by eSpeak NG; validation and test are voices of their own

The encoder that the stage `pretrain` made of the train split's recordings, and the same network untrained,
are trained on the same transcripts, for the same steps, in the same order. Scores are of the test split.
"""

import argparse
import contextlib
import copy
import logging
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from winnow.data import ingest
from winnow.data.modality import Modality, build
from winnow.data.partition import Splits
from winnow.data.sources.joined import Joined
from winnow.data.sources.records import Source
from winnow.data.sources.sentences import Sentences
from winnow.data.sources.starter import WORDS
from winnow.data.sources.tables import Table
from winnow.ssl import model as models
from winnow.ssl import pretrain, train
from winnow.ssl.recognition import Recognition
from winnow.ssl.trunk import Encoder

ROOT = Path(__file__).parents[1]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["speech"]
EXAMPLE = yaml.safe_load((ROOT / "examples" / "recognition.yaml").read_text(encoding="utf-8"))
SCORES = {
    "test/wer": "WER, greedy",
    "test/beam_wer": "WER, beam",
    "test/cer": "CER, greedy",
    "test/beam_cer": "CER, beam",
}


def data(kind: str, workspace: Path | None) -> tuple[Source, Path, float, int]:
    """Give a source, its path, the length of its longest recording [seconds], and steps for a token."""
    if kind == "sentences":
        return Sentences(1600, 5), ROOT, 2.9, 2  # some voices say more than one character in 30 ms
    assert workspace is not None
    words = Table(table="labels.csv", path="file", label="label", group="speaker")
    texts = {str(digit): word for digit, word in enumerate(WORDS)}
    strings = Joined(
        words,
        strings=3000,
        length=(1, 4),
        silence_seconds=(0.03, 0.12),
        max_seconds=2.0,
        sample_rate_hz=8000,
        texts=texts,
    )
    return strings, workspace / "sources" / "speech", 2.0, 1


def run(chosen: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Ingest, pretrain, and train both: their scores, of each seed."""
    source, raw, seconds, steps_per_token = data(chosen.data, chosen.workspace)
    section = copy.deepcopy(PARAMS["modality"])
    section["init_args"]["seconds"] = seconds
    modality = build(section)
    samples, pretrained = folder / "ingest", folder / "pretrain"
    for path in (samples, pretrained):
        path.mkdir()
    ingest.main(
        modality,
        raw,
        samples,
        source=source,
        splits=Splits(**PARAMS["ingest"]["splits"]),
        min_class_size=1,
        max_rejects=0.05,
        label_noise=0.0,
        seed=0,
        engine="local",
        workers=1,
    )
    pretrain.main(
        modality, samples, samples, pretrained, **pretraining(chosen.pretrain_steps), logs=folder / "logs"
    )
    scores: dict[str, list[dict[str, float]]] = {"pretrained": [], "untrained": []}
    for seed in range(chosen.seeds):
        twin = folder / f"untrained-{seed}"
        twin.mkdir()
        torch.manual_seed(seed)
        models.save(Encoder(modality, models.load_encoder(pretrained).shape), twin)
        for name, encoder in (("pretrained", pretrained), ("untrained", twin)):
            head = {"encoder": str(encoder), "steps_per_token": steps_per_token}
            scores[name].append(learned(modality, samples, head, chosen.steps, seed, folder / "logs"))
    return scores


def pretraining(steps: int) -> dict[str, Any]:
    """Give the section of params.yaml for so many steps, of batches as large as those with transcripts."""
    section = copy.deepcopy(PARAMS["pretrain"])
    # To tell samples from each other makes all tokens of one alike, and CTC writes nothing.
    section["model"]["instances"] = None
    section["data"]["batch_size"] = EXAMPLE["data"]["batch_size"]
    section["trainer"] |= {"max_steps": steps, "val_check_interval": steps, "log_every_n_steps": steps}
    return section


def learned(
    modality: Modality, samples: Path, head: dict[str, Any], steps: int, seed: int, logs: Path
) -> dict[str, float]:
    """Train as examples/recognition.yaml says, for so many steps, and score on the test split."""
    section = copy.deepcopy(EXAMPLE)
    section["data"] |= {"modality": models.section(modality), "ingest": str(samples), "labels": str(samples)}
    section["data"] |= {"targets": "transcripts", "seed": seed}
    often = {"val_check_interval": steps, "log_every_n_steps": steps}
    method, _ = train.fit(
        Recognition,
        model=section["model"] | head,
        data=section["data"],
        trainer=section["trainer"] | {"max_steps": steps, **often},
        threads=torch.get_num_threads(),
        logs=logs,
    )
    (scored,) = method.trainer.test(method, datamodule=method.trainer.datamodule, verbose=False)  # type: ignore[attr-defined]
    return scored


def main(words: list[str]) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.recognition",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", choices=["digits", "sentences"])
    parser.add_argument("workspace", type=Path, nargs="?", help="of `make real`, for digits")
    parser.add_argument("--pretrain-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=1000, help="with transcripts")
    parser.add_argument("--seeds", type=int, default=1, help="of head, order and untrained network")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    chosen = parser.parse_args(words)
    if chosen.data == "digits" and chosen.workspace is None:
        parser.error("digits needs the WORKSPACE of `make real`")
    sys.argv = sys.argv[:1]  # Lightning would read it
    torch.set_num_threads(chosen.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # What Lightning has to say is no part of the table.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        scores = run(chosen, Path(folder))
    print(f"| {chosen.data} | {' | '.join(SCORES.values())} |\n|---{'|---' * len(SCORES)}|")
    for name, runs in scores.items():
        means = [statistics.mean(run[score] for run in runs) for score in SCORES]
        print(f"| {name} | {' | '.join(f'{mean:.1%}' for mean in means)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
