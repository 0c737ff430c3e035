"""The method, data2vec 2.0: a student sees part of a sample and predicts what a teacher thinks of all of it.

The teacher is a moving average of the student. The student's trunk runs over the visible tokens only,
under several masks for each pass of the teacher; a small convolutional decoder predicts the hidden ones.
The method knows tokens on a grid and no modality by name.

Paper: data2vec 2.0 (Baevski et al. 2022, arXiv 2212.07525), sections 3.1 to 3.3; the targets are those of
data2vec (Baevski et al. 2022, arXiv 2202.03555), section 3.3.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from winnow.data.batches import Batch, stream
from winnow.data.modality import Modality, Tokens
from winnow.ssl import monitor
from winnow.ssl.masking import Masking, block_mask
from winnow.ssl.model import Encoded, Encoder, Shape, gather_tokens, pool
from winnow.ssl.train import Optimization, optimizers

_CONVOLUTION = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NOISE_STD = 0.01  # of the vectors that stand for hidden tokens in the decoder's input


@dataclass(frozen=True, kw_only=True)
class Ema:
    """How slowly the teacher follows the student.

    Attributes:
        start: share of the teacher that an update keeps, at first [0–1].
        end: the same, from `ramp` on.
        ramp: fraction of the run over which it goes from start to end, linearly [0–1].
        share_frontend: the teacher reads through the student's own frontend (data2vec on speech).
    """

    start: float
    end: float
    ramp: float
    share_frontend: bool

    def decay(self, step: int, steps: int) -> float:
        """Give `ema_decay` after `step` of `steps` updates."""
        progress = min(step / max(self.ramp * steps, 1), 1.0)
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """The size of the decoder.

    Attributes:
        layers: convolutions.
        dim: their width.
        kernel: their side, odd.
        groups: of each convolution; divides both widths.
    """

    layers: int
    dim: int
    kernel: int
    groups: int


class Decoder(nn.Module):
    """Predicts every place of a grid from the visible ones; thrown away after pretraining."""

    def __init__(self, grid: tuple[int, ...], dim: int, shape: DecoderShape) -> None:
        super().__init__()
        self.grid = grid
        convolution = _CONVOLUTION[len(grid) - 1]
        self.convolutions = nn.ModuleList(
            convolution(
                dim if i == 0 else shape.dim,
                shape.dim,
                shape.kernel,
                padding="same",
                groups=shape.groups,
            )
            for i in range(shape.layers)
        )
        self.norm = nn.LayerNorm(shape.dim, elementwise_affine=False)
        self.out = nn.Linear(shape.dim, dim)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        for convolution in self.convolutions:
            spread = convolution(x.transpose(1, 2).unflatten(2, self.grid)).flatten(2)
            y = functional.gelu(self.norm(spread.transpose(1, 2)))
            x = x + y if y.shape == x.shape else y
        return self.out(x)


def instance_norm(
    x: Float[Tensor, "batch token dim"], valid: Bool[Tensor, "batch token"]
) -> Float[Tensor, "batch token dim"]:
    """Normalise each channel of each sample over its valid tokens."""
    mean = pool(x, valid)[:, None]
    variance = pool((x - mean).square(), valid)[:, None]
    return (x - mean) / (variance + 1e-5).sqrt()


class Data2Vec(lightning.LightningModule):
    """Student, teacher and decoder; `student` is what is kept.

    Args:
        modality: gives grid and frontend.
        shape: of the trunk.
        masking: what the student does not see.
        masks: views of a sample for each pass of the teacher.
        top_k_layers: last layers of the teacher that a target averages.
        final_norm: normalise the averaged target once more, per token (data2vec 2.0, images).
        visible_loss: weight of predicting the visible tokens too, 0 in data2vec 2.0. Where hidden ones
            cannot be guessed for a long while, as words cannot, the student would learn to say the
            same of every sample; what it sees keeps it from forgetting what it saw.
        decoder: size of the decoder.
        ema: how the teacher follows.
        optimization: learning rate and its schedule.
        seed: of masks and dropout.
    """

    def __init__(
        self,
        modality: Modality,
        shape: Shape,
        masking: Masking,
        masks: int,
        top_k_layers: int,
        final_norm: bool,
        visible_loss: float,
        decoder: DecoderShape,
        ema: Ema,
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__()
        if not 1 <= top_k_layers <= shape.layers:
            raise ValueError(f"top_k_layers {top_k_layers} is not within 1 to {shape.layers} layers")
        self.student = Encoder(modality, shape)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.decoder = Decoder(modality.grid, shape.dim, decoder)
        self.grid, self.masking, self.masks = modality.grid, masking, masks
        self.top_k_layers, self.final_norm = top_k_layers, final_norm
        self.visible_loss = visible_loss
        self.ema, self.optimization, self.seed = ema, optimization, seed
        self.train()

    def target(self, x: Tensor) -> tuple[Float[Tensor, "batch token dim"], Tokens]:
        """Give the teacher's view of whole samples, and the tokens that the student starts from."""
        tokens = self.student.tokens(x)
        with torch.no_grad():
            seen = tokens if self.ema.share_frontend else self.teacher.tokens(x)
            taps = self.teacher.run(seen.x, seen.valid).taps[-self.top_k_layers :]
            target = torch.stack([instance_norm(tap, seen.valid) for tap in taps]).mean(0)
            if self.final_norm:
                target = functional.layer_norm(target, target.shape[-1:])
        return target, tokens

    def predict(
        self,
        tokens: Tokens,
        mask: Bool[Tensor, "batch token"],
        generator: torch.Generator,
    ) -> Float[Tensor, "batch token dim"]:
        """Predict the target at every place from the visible tokens alone."""
        x, seen, place = gather_tokens(tokens.x, tokens.valid & ~mask)
        encoded: Encoded = self.student.run(x, seen)
        noise = _NOISE_STD * torch.randn(tokens.x.shape, generator=generator).to(x)
        canvas = torch.where(mask[..., None], noise, torch.zeros_like(noise))
        # Rows that see fewer tokens were filled up: those places keep what the canvas has there.
        there = place[..., None].expand_as(encoded.hidden[-1])
        kept = torch.where(seen[..., None], encoded.hidden[-1], canvas.gather(1, there))
        return self.decoder(canvas.scatter(1, there, kept))

    def loss(self, x: Tensor, generator: torch.Generator) -> Float[Tensor, ""]:
        """Give the squared error of the prediction, over the root of the width."""
        target, tokens = self.target(x)
        target = target.repeat_interleave(self.masks, 0)
        tokens = Tokens(*(t.repeat_interleave(self.masks, 0) for t in tokens))
        mask = block_mask(tokens.valid, self.grid, self.masking, generator)
        prediction = self.predict(tokens, mask, generator)
        error = (prediction - target).square().sum(2)
        hidden, visible = error[mask].mean(), error[tokens.valid & ~mask].mean()
        return (hidden + self.visible_loss * visible) / math.sqrt(target.shape[-1])

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        turn = self.global_step * self.trainer.accumulate_grad_batches + batch_idx
        loss = self.loss(batch.x, stream(self.seed, turn * self.trainer.world_size + self.global_rank))
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch.x, stream(self.seed, batch_idx)))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout draws from the global generator: tied to the step, so that a resumed run repeats it.
        torch.manual_seed(self.seed * 1_000_003 + self.global_step)

    def optimizer_step(self, *args: Any, **keywords: Any) -> None:
        # Once per update of the student, however many batches that took, and before any callback of
        # the step: a checkpoint of step k then holds the teacher of step k.
        super().optimizer_step(*args, **keywords)
        self.update_teacher(self.ema.decay(self.global_step + 1, self.trainer.max_steps))

    def train(self, mode: bool = True) -> "Data2Vec":
        super().train(mode)
        self.teacher.eval()  # a target without dropout
        return self

    @torch.no_grad()
    def update_teacher(self, decay: float) -> None:
        """Move the teacher towards the student: teacher = decay * teacher + (1 - decay) * student."""
        for kept, live in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            kept.lerp_(live, 1 - decay)

    @torch.no_grad()
    def diagnose(self, x: Tensor) -> dict[str, float]:
        """Look for collapse on a fixed batch: of the targets, and of what the student makes of it."""
        self.eval()
        target, tokens = self.target(x)
        pooled = pool(self.student.run(*tokens).hidden[-1], tokens.valid)
        self.train()
        return {
            "target_std": monitor.token_std(target, tokens.valid),
            "sample_share": monitor.sample_share(target, tokens.valid),
            "embedding_std": monitor.embedding_std(pooled),
            "effective_rank": monitor.effective_rank(pooled),
        }

    def configure_optimizers(self) -> Any:
        return optimizers(self, self.optimization, self.trainer.max_steps)
