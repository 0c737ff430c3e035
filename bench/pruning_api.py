"""TensorFlow's pruning API against this project's, in its own example and its own rules; prints Markdown.

`python -m bench.pruning_api images DATASETS`
    the network of the API's tutorial of 2019 (two convolutions, two dense layers, 3.27 million weights) on
    Fashion-MNIST, read from DATASETS/FashionMNIST/raw
`python -m bench.pruning_api digits DATASETS`
    a GRU that tells spoken digits, on DATASETS/fsdd/recordings.tar; each seed holds another speaker out
`python -m bench.pruning_api conformance`
    schedules step by step, and masks, beside the API's own rules

A network is trained dense; then it is pruned while it is trained on, and, as the control, trained on dense
for as many steps. Sizes are of the safetensors file in a zip, as the tutorial zips its file; `int8` has one
scale for each row of a matrix, and is scored with the weights that these integers stand for. Activations
stay float: so does the tutorial's. Accuracy is that of the last step on the test split, of which nothing
was chosen.
"""

import argparse
import copy
import gzip
import io
import statistics
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
import torchaudio
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from winnow.compress.allocation import Allocation, erdos_renyi_kernel, layerwise, overall
from winnow.compress.fakequant import fake_quantize_rows, weight_scale
from winnow.compress.patterns import NM, Blocks, Pattern
from winnow.compress.schedules import ConstantSparsity, PolynomialDecay
from winnow.compress.scores import Magnitude
from winnow.compress.sparsity import Pruner, keep_best, matrices, measured_sparsity, require_zeros

MEBIBYTE = 2**20
BATCH = 128
SCOPES = {"layer": layerwise, "global": overall, "erk": erdos_renyi_kernel}
SPARSITY = 0.9
TARGETS = {"sparse": 2.44, "sparse int8": 0.60}  # the tutorial's own zips [MiB]


class Digits(nn.Module):
    """A digit out of the log-mel frames of a second of speech."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(40, 128, num_layers=2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0].mean(1))


def tutorial() -> nn.Module:
    """Give the network of the tutorial."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(32)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(3136, 1024), nn.ReLU(), nn.Dropout(0.4), nn.Linear(1024, 10)),
    )


class Data(NamedTuple):
    """What is learned and what is scored."""

    x: Tensor
    label: Tensor
    test_x: Tensor
    test_label: Tensor


def images(folder: Path, seed: int) -> Data:
    """Read Fashion-MNIST; every seed has the same split."""

    def read(name: str, header: int) -> Tensor:
        content = gzip.decompress((folder / "FashionMNIST" / "raw" / f"{name}-ubyte.gz").read_bytes())
        return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).copy())

    x, test = (read(f"{part}-images-idx3", 16).view(-1, 1, 28, 28) / 255 for part in ("train", "t10k"))
    return Data(x, read("train-labels-idx1", 8).long(), test, read("t10k-labels-idx1", 8).long())


def digits(folder: Path, seed: int) -> Data:
    """Read spoken digits; the test split is one speaker, who is in no training sample."""
    mel = torchaudio.transforms.MelSpectrogram(8000, n_fft=512, win_length=256, hop_length=160, n_mels=40)
    x, label, speakers = [], [], []
    with tarfile.open(folder / "fsdd" / "recordings.tar") as archive:
        for member in sorted((m for m in archive if m.name.endswith(".wav")), key=lambda m: m.name):
            digit, speaker, _ = Path(member.name).stem.split("_")
            content = archive.extractfile(member)
            assert content
            wave = torch.from_numpy(soundfile.read(io.BytesIO(content.read()), dtype="float32")[0])
            frames = mel(wave).clamp(min=1e-6).log()[:, :50]
            # One speaker is 13 times quieter than another, and each has a microphone of their own.
            frames = (frames - frames.mean(1, keepdim=True)) / frames.std()
            x.append(functional.pad(frames, (0, 50 - frames.shape[1])).T)
            label.append(int(digit))
            speakers.append(speaker)
    names = sorted(set(speakers))
    held = torch.tensor([speaker == names[seed % len(names)] for speaker in speakers])
    frames, labels = torch.stack(x), torch.tensor(label)
    return Data(frames[~held], labels[~held], frames[held], labels[held])


def train(model: nn.Module, data: Data, steps: int, seed: int, rate: float, pruner: Pruner | None) -> None:
    """Train for some steps; with a pruner, prune on the way as the tutorial's fine-tuning does."""
    schedule = PolynomialDecay(
        begin=0, end=round(0.6 * steps), frequency=10, power=3.0, initial=0.5, final=SPARSITY
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, max(2.5 * (1 - step / steps), 0.05))
    )
    model.train()
    for step, rows in enumerate(_batches(len(data.x), steps, seed), 1):
        optimizer.zero_grad()
        functional.cross_entropy(model(data.x[rows]), data.label[rows]).backward()
        optimizer.step()
        decay.step()
        if pruner:
            pruner.step(model, step, schedule, [optimizer])


def _batches(samples: int, steps: int, seed: int) -> Iterator[Tensor]:
    torch.manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(samples)
        yield order[:BATCH]
        order = order[BATCH:]


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Score the test split [percent]."""
    model.eval()
    found = torch.cat([model(part).argmax(1) for part in data.test_x.split(500)])
    return 100 * float((found == data.test_label).double().mean())


@torch.no_grad()
def rounded(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """Give the network with the weights that int8 stands for, and what its file holds."""
    model = copy.deepcopy(model)
    held = dict(model.state_dict())
    for name, weight in matrices(model).items():
        scale = weight_scale(weight)
        weight.copy_(fake_quantize_rows(weight.flatten(1)).view_as(weight))
        integers = (weight.flatten(1) / scale[:, None]).round().to(torch.int8).view_as(weight)
        held |= {name: integers, f"{name}_scale": scale}
    return model, held


def zipped(tensors: dict[str, Tensor]) -> float:
    """Give the size of a zip with the tensors' file in it [MiB]."""
    with tempfile.TemporaryDirectory() as folder:
        path, archive = Path(folder, "model.safetensors"), Path(folder, "model.zip")
        save_file(tensors, path)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
            file.write(path, path.name)
        return archive.stat().st_size / MEBIBYTE


def run(
    kind: str, folder: Path, seed: int, steps: int, more: int, allocate: Allocation
) -> dict[str, tuple[float, float]]:
    """Train, prune and round: the size of each zip and its accuracy."""
    data = (images if kind == "images" else digits)(folder, seed)
    torch.manual_seed(seed)
    model, rate = (tutorial(), 1e-3) if kind == "images" else (Digits(), 4e-3)
    train(model, data, steps, seed, rate, None)
    dense, sparse, pruner = copy.deepcopy(model), model, Pruner(allocate=allocate)
    train(dense, data, more, seed + 100, rate, None)
    train(sparse, data, more, seed + 100, rate, pruner)
    require_zeros(sparse, pruner.keep)
    assert abs(measured_sparsity(sparse) - SPARSITY) < 1e-3
    found = {}
    for name, one in (("dense", dense), ("sparse", sparse)):
        integer, held = rounded(one)
        found[name] = zipped(one.state_dict()), accuracy(one, data)
        found[f"{name} int8"] = zipped(held), accuracy(integer, data)
    return found


def table(kind: str, folder: Path, seeds: int, steps: int, more: int, scope: str) -> Iterator[str]:
    """Give the rows of all seeds together."""
    runs = [run(kind, folder, seed, steps, more, SCOPES[scope]) for seed in range(seeds)]
    yield f"{steps} + {more} steps of {BATCH}, scope {scope}; {seeds} seeds, ± is their standard deviation."
    yield ""
    yield "| network | zipped [MiB] | of dense | tutorial's [MiB] | accuracy [%] | lost to dense [points] |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name in runs[0]:
        size = statistics.mean(one[name][0] for one in runs)
        ratio = statistics.mean(one["dense"][0] / one[name][0] for one in runs)
        target = f"{TARGETS[name]:.2f}" if name in TARGETS and kind == "images" else ""
        scores = spread([one[name][1] for one in runs])
        lost = spread([one["dense"][1] - one[name][1] for one in runs])
        yield f"| {name} | {size:.3f} | 1/{ratio:.1f} | {target} | {scores} | {lost} |"


def spread(values: list[float]) -> str:
    """Give a mean, and the standard deviation where there are several."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def conformance() -> Iterator[str]:
    """Give schedules and masks beside what the API's documentation says of them."""
    yield "| schedule | step | API prunes | here | API sparsity | here |"
    yield "|---|---:|---|---|---:|---:|"
    for begin, end, frequency, power in ((2000, 5628, 100, 3.0), (0, 844, 100, 3.0), (10, 50, 20, 1.0)):
        decay = PolynomialDecay(
            begin=begin, end=end, frequency=frequency, power=power, initial=0.5, final=0.9
        )
        for step in sorted(
            {1, begin, begin + 1, begin + frequency, (begin + end) // 2, end, end + frequency}
        ):
            progress = min(max((step - begin) / (end - begin), 0), 1)
            sparsity = 0.9 + (0.5 - 0.9) * (1 - progress) ** power
            due = begin <= step <= end and (step - begin) % frequency == 0
            here = f"{_word(decay.should_prune(step))} | {sparsity:.6f} | {decay.sparsity(step):.6f}"
            yield f"| polynomial {begin}–{end}, every {frequency} | {step} | {_word(due)} | {here} |"
    constant = ConstantSparsity(begin=5, end=None, frequency=10, final=0.5)
    for step in (1, 5, 6, 15, 100005):
        due = step >= 5 and (step - 5) % 10 == 0
        here = f"{_word(constant.should_prune(step))} | 0.500000 | {constant.sparsity(step):.6f}"
        yield f"| constant from 5, every 10 | {step} | {_word(due)} | {here} |"
    yield ""
    yield "| pattern | sparsity | weights kept by the API's rule | here | masks differ in |"
    yield "|---|---:|---:|---:|---:|"
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    patterns: list[Pattern] = [
        *(Blocks(block=block, pooling="average") for block in ((1, 1), (1, 4), (4, 4), (1, 16))),
        *(Blocks(block=block, pooling="max") for block in ((1, 4), (4, 4))),
    ]
    for pattern in patterns:
        for sparsity in (0.5, 0.9, 0.987):
            yield _compared(f"{pattern.block}, {pattern.pooling}", weight, pattern, sparsity)  # type: ignore[union-attr]
    yield _compared("2 of 4", weight, NM(n=2, m=4), 0.5)


def _compared(name: str, weight: Tensor, pattern: Pattern, sparsity: float) -> str:
    here = keep_best({"": weight}, sparsity, pattern, Magnitude(), layerwise)[""]
    if isinstance(pattern, NM):
        groups = weight.abs().unflatten(1, (-1, pattern.m))
        rule = (groups >= groups.sort(2).values[..., pattern.m - pattern.n, None]).flatten(1)
    else:
        rows, columns = pattern.block
        pool = functional.avg_pool2d if pattern.pooling == "average" else functional.max_pool2d
        pooled = pool(weight.abs()[None], pattern.block)[0]
        kept = max(round(pooled.numel() * (1 - sparsity)), 1)
        rule = pooled >= pooled.flatten().sort(descending=True).values[kept - 1]
        rule = rule.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return f"| {name} | {sparsity} | {int(rule.sum())} | {int(here.sum())} | {int((rule ^ here).sum())} |"


def _word(value: bool) -> str:
    return "yes" if value else "no"


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=["images", "digits", "conformance"])
    parser.add_argument("datasets", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4690, help="of dense training")
    parser.add_argument("--more", type=int, default=1876, help="of pruning, and of the control")
    parser.add_argument("--scope", choices=SCOPES, default="layer", help="layer is the tutorial's")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.part == "conformance":
        lines = conformance()
    elif chosen.datasets is None:
        parser.error(f"{chosen.part} needs the folder of the datasets")
    else:
        lines = table(chosen.part, chosen.datasets, chosen.seeds, chosen.steps, chosen.more, chosen.scope)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
