"""Samples a second of a training step, and the share of the machine's matrix throughput that it reaches.

`python -m bench.pretraining speed [--steps 20]` times data2vec 2.0 and data2vec as winnow
trains them, and data2vec by a plain loop over Hugging Face's encoder of the same shape; each in 32 bits, and
with products of matrices in 16 (bfloat16, as Lightning's `precision: bf16-mixed`). All run in this process,
on one thread, in turns, so that what else the machine does falls on all of them alike. Seconds are those of
the processor.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import Data2VecTextConfig, Data2VecTextModel, Data2VecVisionConfig, Data2VecVisionModel

from winnow.data.batches import UNLABELLED, Batch, stream
from winnow.data.modality import Modality
from winnow.data.text import Text
from winnow.ssl.data2vec import Data2Vec, Loss
from winnow.ssl.draws import Draws
from winnow.ssl.ema import Ema
from winnow.ssl.masking import Blocks, Masking, Rectangles, Spans
from winnow.ssl.predictors import DecoderShape, HeadShape
from winnow.ssl.published.reading import from_huggingface
from winnow.ssl.shape import Shape
from winnow.ssl.targets import Target
from winnow.ssl.train import Optimization, optimizers

SIZE = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}
BATCH = 32
VIEWS = 4  # of a sample for each pass of data2vec 2.0's teacher
DECAY, CLIP, LR = 0.99, 4.0, 1e-3
MASK_ID = 4  # of a word that no batch holds: theirs begin at 5
WARMUP = 3  # steps before the clock counts
PLAIN = "data2vec, plain loop"

Step = Callable[[int], None]


class Setting(NamedTuple):
    """One modality, at a size that a CPU can train.

    Attributes:
        modality: what our methods read.
        shape: of the trunk, as Hugging Face's encoder has it.
        x: a batch.
        published: that encoder.
        first: how data2vec hides tokens.
        second: how data2vec 2.0 does.
        target: of data2vec.
    """

    modality: Modality
    shape: Shape
    x: Tensor
    published: transformers.PreTrainedModel
    first: Masking
    second: Masking
    target: Target


def vision() -> Setting:
    """Give images of 28×28 in patches of 4×4."""
    config = Data2VecVisionConfig(
        **SIZE,
        image_size=28,
        patch_size=4,
        num_channels=1,
        use_mask_token=True,
        use_shared_relative_position_bias=True,
        use_mean_pooling=False,
        drop_path_rate=0.0,
    )
    published = Data2VecVisionModel(config)
    with tempfile.TemporaryDirectory() as folder:
        published.save_pretrained(folder)
        encoder = from_huggingface(Path(folder))
    target = Target(layers=4, tap="layer", norm="layer", final_norm="layer")
    first = Rectangles(ratio=0.6, min_tokens=4, min_aspect=0.3)
    second = Blocks(ratio=0.8, adjust=0.07, block=(3, 3), inverse=True)
    x = torch.randn(BATCH, 1, 28, 28)
    return Setting(encoder.modality, encoder.shape, x, published, first, second, target)


def text() -> Setting:
    """Give texts of 64 tokens."""
    config = Data2VecTextConfig(
        **SIZE,
        vocab_size=4096,
        max_position_embeddings=66,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    published = Data2VecTextModel(config)
    modality = Text(length=64, vocabulary=4096)
    with tempfile.TemporaryDirectory() as folder:
        published.save_pretrained(folder)
        shape = from_huggingface(Path(folder), modality).shape
    target = Target(layers=4, tap="feed_forward", norm="layer", final_norm="none")
    second = Blocks(ratio=0.48, adjust=0.0, block=(1,), inverse=False)
    x = torch.randint(MASK_ID + 1, 4096, (BATCH, 64))
    return Setting(modality, shape, x, published, Spans(ratio=0.35, length=4), second, target)


def ours(setting: Setting, second: bool, mixed: bool) -> Step:
    """Make a step as winnow's pretraining takes it."""
    torch.manual_seed(0)
    dim = setting.shape.dim
    decoder = DecoderShape(
        layers=2, dim=dim, kernel=3, groups=4, residual=True, out_layers=1, out_ratio=1.0,
        noise_std=0.01, dropout=0.0,
    )  # fmt: skip
    optimization = Optimization(
        lr=LR,
        batch_size=None,
        warmup=0.0,
        hold=1.0,
        decay="cosine",
        floor=0.0,
        weight_decay=0.01,
        betas=(0.9, 0.98),
        eps=1e-8,
    )
    method = Data2Vec(
        setting.modality,
        replace(setting.shape, positions="sincos") if second else setting.shape,
        setting.second if second else setting.first,
        VIEWS if second else 1,
        False,
        replace(setting.target, tap="feed_forward", norm="instance") if second else setting.target,
        decoder if second else HeadShape(layers=1, ratio=1.0),
        Loss(beta=0.0, scale="root", visible=0.0, extra=0.0),
        None,
        Ema(start=DECAY, end=DECAY, ramp=0.0, steps=None, shared=()),
        optimization,
        1.0,
        0,
    )
    optimizer = optimizers(method, optimization, 1000, {})["optimizer"]
    unlabelled = torch.full((BATCH,), UNLABELLED)

    def step(number: int) -> None:
        places = torch.arange(number * BATCH, (number + 1) * BATCH)
        update(method, optimizer, Batch(setting.x, unlabelled, places), CLIP, DECAY, mixed)

    return step


def update(
    method: Data2Vec,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    clip: float | None,
    decay: float,
    mixed: bool,
) -> None:
    """Take a step as winnow's pretraining does, without Lightning around it."""
    with torch.autocast("cpu", torch.bfloat16, mixed):
        total, hidden = method.costs(batch)
    optimizer.zero_grad()
    (total / hidden).backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(method.parameters(), clip)
    optimizer.step()
    method.update_teacher(decay)


def plain(setting: Setting, mixed: bool) -> Step:
    """Make a step of data2vec as one writes it over a published encoder, with what PyTorch gives."""
    torch.manual_seed(0)
    student = copy.deepcopy(setting.published).train()
    teacher = copy.deepcopy(setting.published).eval().requires_grad_(False)
    head = torch.nn.Linear(SIZE["hidden_size"], SIZE["hidden_size"])
    weights = [*student.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LR, weight_decay=0.01, betas=(0.9, 0.98))
    words = setting.x.dtype == torch.long
    extra, tokens = (0, 64) if words else (1, 49)

    def step(number: int) -> None:
        valid = torch.ones(BATCH, tokens, dtype=torch.bool)
        places = range(number * BATCH, (number + 1) * BATCH)
        draws = Draws([stream(0, "mask", place) for place in places])
        mask = setting.first(valid, setting.modality.grid, draws)
        with torch.autocast("cpu", torch.bfloat16, mixed):
            with torch.no_grad():
                seen = teacher(setting.x, output_hidden_states=True).hidden_states[1:]
                layers = [functional.layer_norm(x, x.shape[-1:]) for x in seen]
                target = torch.stack(layers).mean(0)
            if words:
                out = student(setting.x.masked_fill(mask, MASK_ID)).last_hidden_state
            else:
                out = student(setting.x, bool_masked_pos=mask).last_hidden_state
            loss = functional.mse_loss(head(out[:, extra:])[mask].float(), target[:, extra:][mask].float())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        with torch.no_grad():
            for kept, live in zip(teacher.parameters(), student.parameters(), strict=True):
                kept.mul_(DECAY).add_(live, alpha=1 - DECAY)

    return step


def speed(steps: int) -> None:
    """Time all in turns, and print what they make of the machine."""
    peaks = {mixed: matrix_throughput(torch.bfloat16 if mixed else torch.float) for mixed in (False, True)}
    single, half = (f"{peak / 1e9:.0f} GFLOP/s" for peak in peaks.values())
    print(f"Matrix products by a thread of this machine: {single} in 32 bits, {half} in 16.\n")
    print("| | method | bits | samples/s | views/s | of the plain loop | matrix throughput |")
    print("|---|---|---|---|---|---|---|")
    for make in (vision, text):
        setting = make()
        contenders = {
            (name, mixed): step
            for mixed in (False, True)
            for name, step in (
                ("data2vec 2.0", ours(setting, second=True, mixed=mixed)),
                ("data2vec", ours(setting, second=False, mixed=mixed)),
                (PLAIN, plain(setting, mixed=mixed)),
            )
        }
        taken: dict[tuple[str, bool], list[float]] = {key: [] for key in contenders}
        work = {key: operations(step) for key, step in contenders.items()}
        for number in range(WARMUP + steps):
            for key, step in contenders.items():
                began = time.process_time()
                step(number)
                if number >= WARMUP:
                    taken[key].append(time.process_time() - began)
        baseline = statistics.median(taken[PLAIN, False])
        for (name, mixed), times in taken.items():
            seconds = statistics.median(times)
            views = VIEWS if name == "data2vec 2.0" else 1
            print(
                f"| {make.__name__} | {name} | {16 if mixed else 32} | {BATCH / seconds:.0f} "
                f"| {views * BATCH / seconds:.0f} | {views * baseline / seconds:.2f} "
                f"| {work[name, mixed] / seconds / peaks[mixed]:.0%} |",
                flush=True,
            )


def operations(step: Step) -> int:
    """Count the floating-point operations of a step's matrix products."""
    with FlopCounterMode(display=False) as counter:
        step(0)
    return counter.get_total_flops()


def matrix_throughput(dtype: torch.dtype, side: int = 1024, runs: int = 10) -> float:
    """Measure the machine by large products of matrices [operations a second]."""
    one, other = torch.randn(side, side, dtype=dtype), torch.randn(side, side, dtype=dtype)
    times = []
    for _ in range(runs):
        began = time.process_time()
        one @ other
        times.append(time.process_time() - began)
    return 2 * side**3 / statistics.median(times)


def main(words: list[str]) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.pretraining speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=20, help="timed, of each method")
    chosen = parser.parse_args(words)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    speed(chosen.steps)
