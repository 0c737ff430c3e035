"""The method, data2vec: a student sees part of a sample and predicts what a teacher thinks of all of it.

The teacher is a moving average of the student. In data2vec 2.0 the student runs over the visible tokens
only, under several masks for each pass of the teacher, and a small convolutional decoder predicts the hidden
ones; in the first data2vec it runs over all tokens, the hidden ones covered. The predictor decides which of
the two it is. The method knows tokens on a grid and no modality by name.

Paper: data2vec 2.0 (Baevski et al. 2022, arXiv 2212.07525), sections 3.1 to 3.3; data2vec (Baevski et al.
2022, arXiv 2202.03555), section 3.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from winnow.data.batches import Batch, stream
from winnow.data.modality import Modality, Tokens
from winnow.data.reading import Named
from winnow.ssl import monitor
from winnow.ssl.draws import Draws
from winnow.ssl.ema import Ema, follow
from winnow.ssl.instances import Instances, InstanceShape
from winnow.ssl.masking import Masking
from winnow.ssl.method import Method
from winnow.ssl.predictors import Decoder, DecoderShape, Head, HeadShape
from winnow.ssl.shape import Shape
from winnow.ssl.targets import Target
from winnow.ssl.tokens import gather_tokens, pool
from winnow.ssl.train import Optimization
from winnow.ssl.trunk import Encoded, Encoder
from winnow.ssl.vit import TimmShape

SHAREABLE = ("frontend", "positions", "position_norm", "convolutions", "extra", "norm", "relative")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a wrong prediction costs.

    Attributes:
        beta: error from which the cost is linear, as in the smooth L1; 0: it is squared throughout.
        scale: of a token's channels: their `sum`, their `mean`, or the sum over the `root` of their number.
        visible: weight of predicting the visible tokens too, 0 in the papers. Where hidden ones cannot be
            guessed for a long while, as words cannot, the student would learn to say the same of every
            sample; what it sees keeps it from forgetting what it saw.
        extra: weight of predicting the mean of the target by the extra tokens' output, of the mean over
            all masks (data2vec 2.0, images; there 0.01, of the sum over masks and samples).
    """

    beta: float
    scale: Literal["sum", "mean", "root"]
    visible: float
    extra: float

    def __call__(
        self, prediction: Float[Tensor, "*rows dim"], target: Float[Tensor, "*rows dim"]
    ) -> Float[Tensor, "*rows"]:
        """Give the cost of each token."""
        if self.beta:
            error = functional.smooth_l1_loss(prediction, target, reduction="none", beta=self.beta)
        else:
            error = (prediction - target).square()
        dim = target.shape[-1]
        return error.sum(-1) / {"sum": 1.0, "mean": dim, "root": dim**0.5}[self.scale]


class Data2Vec(Method):
    """Student, teacher and predictor; `student` is what is kept.

    Args:
        modality: gives grid and frontend.
        shape: of the trunk: its size and switches, or a model of timm (timm, options, weights, blocks).
        masking: what the student does not see: blocks (ratio, adjust, block, inverse), spans (ratio,
            length) or rectangles (ratio, min_tokens, min_aspect).
        masks: views of a sample for each pass of the teacher.
        complementary: every second mask hides what the one before it shows; ratios are of the others.
        target: what is predicted.
        predictor: a decoder (layers, dim, kernel, groups, residual, out_layers, out_ratio, noise_std,
            dropout), or a head (layers, ratio).
        loss: what a wrong prediction costs.
        instances: how views of one sample are recognised among all others; null: they are not asked to be.
        ema: how the teacher follows.
        optimization: learning rate and its schedule.
        frontend_lr: factor of the learning rate of the frontend. The row of a rare word meets few batches,
            and is slow to leave where it starts.
        seed: of masks and dropout.

    Raises:
        ValueError: if `target.layers` or `ema.shared` ask for what the trunk does not have, there is no
            extra token to predict by, or masks cannot be paired.
    """

    steps = ("training_step", "validation_step", "predict_step", "diagnose")

    def __init__(
        self,
        modality: Modality,
        shape: Shape | TimmShape,
        masking: Masking,
        masks: int,
        complementary: bool,
        target: Target,
        predictor: DecoderShape | HeadShape,
        loss: Loss,
        instances: InstanceShape | None,
        ema: Ema,
        optimization: Optimization,
        frontend_lr: float,
        seed: int,
    ) -> None:
        super().__init__(optimization, seed)
        if unknown := set(ema.shared) - set(SHAREABLE):
            raise ValueError(f"ema.shared names {sorted(unknown)}; there are {', '.join(SHAREABLE)}")
        if complementary and masks % 2:
            raise ValueError(f"complementary masks come in pairs: masks must be even, not {masks}")
        self.student = Encoder(modality, shape)
        if not 1 <= target.layers <= len(self.student.layers):
            raise ValueError(
                f"target.layers {target.layers} is not within 1 to {len(self.student.layers)} layers"
            )
        if loss.extra and not self.student.extra_tokens:
            raise ValueError(f"loss.extra {loss.extra} needs extra tokens in shape, of which there are 0")
        if complementary and instances and self.student.positions is not None:
            raise ValueError(
                "shape.positions must be none (of timm: options {pos_embed: none}): where masks are "
                "complementary, the places that a view sees say which its partner is"
            )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.predictor: Decoder | Head
        if isinstance(predictor, DecoderShape):
            self.predictor = Decoder(modality.grid, self.student.dim, predictor)
        else:
            self.predictor = Head(self.student.dim, predictor)
        self.instances = None if instances is None else Instances(self.student.dim, instances)
        self.grid, self.masking, self.masks = modality.grid, masking, masks
        self.complementary, self.frontend_lr = complementary, frontend_lr
        self.make_target, self.cost = target, loss
        self.ema = ema
        self.train()

    @property
    def kept(self) -> Encoder:
        return self.student

    def scales(self) -> dict[str, float]:
        if self.frontend_lr == 1:
            return {}
        names = (name for name, _ in self.named_parameters() if name.startswith("student.frontend."))
        return dict.fromkeys(names, self.frontend_lr)

    def target(self, x: Tensor) -> tuple[Float[Tensor, "batch token dim"], Tokens]:
        """Give the teacher's view of whole samples, and the tokens that the student starts from."""
        tokens = self.student.frontend(x)
        with torch.no_grad():
            own = tokens if "frontend" in self.ema.shared else self.teacher.frontend(x)
            target = self.make_target(self.teacher.encode(own))
        return target, tokens

    def predict(
        self,
        tokens: Tokens,
        mask: Bool[Tensor, "batch token"],
        draws: Draws,
    ) -> tuple[Float[Tensor, "batch token dim"], Encoded]:
        """Predict the target at every place from the visible tokens alone, and give what those became."""
        if isinstance(self.predictor, Head):
            covered = torch.where(mask[..., None], self.predictor.cover, tokens.x)
            encoded = self.student.encode(Tokens(covered, tokens.valid))
            return self.predictor(encoded.out), encoded
        located, visible = self.student.located(tokens), tokens.valid & ~mask
        x, seen, place = gather_tokens(self.student.surrounded(located.x, visible), visible)
        encoded = self.student.run(x, seen, place)
        decoder = self.predictor.shape
        noise = decoder.noise_std * draws.normal(*tokens.x.shape[1:]).to(x)
        canvas = torch.where(mask[..., None], noise, torch.zeros_like(noise))
        # Rows that see fewer tokens were filled up: those places keep what the canvas has there.
        there = place[..., None].expand_as(encoded.out)
        out = self.predictor.dropout(encoded.out)
        kept = torch.where(seen[..., None], out, canvas.gather(1, there))
        return self.predictor(canvas.scatter(1, there, kept)), encoded

    def hide(self, valid: Bool[Tensor, "batch token"], draws: Draws) -> Bool[Tensor, "batch token"]:
        """Draw the masks of the views."""
        mask = self.masking(valid, self.grid, draws)
        if not self.complementary:
            return mask
        shown = valid[1::2] & ~mask[::2]
        return torch.stack([mask[::2], shown], 1).flatten(0, 1)

    def spend(
        self, x: Tensor, draws: Draws, sample: Int[Tensor, " batch"] | None = None
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Give the cost of the hidden tokens, with what is added to it, and the number of these tokens.

        A sample counts by its hidden tokens, in what is added too: all of it is one mean, over them.

        Args:
            x: samples.
            draws: of their masks and noise.
            sample: which one each is, to be told from the others; None: nothing is asked about that.
        """
        target, tokens = self.target(x)
        target = target.repeat_interleave(self.masks, 0)
        tokens = Tokens(*(t.repeat_interleave(self.masks, 0) for t in tokens))
        mask = self.hide(tokens.valid, draws)
        prediction, encoded = self.predict(tokens, mask, draws)
        cost = self.cost(prediction, target)
        hidden = mask.sum(1)
        total = cost[mask].sum()
        if self.cost.visible:
            total = (
                total + self.cost.visible * (hidden * pool(cost[..., None], tokens.valid & ~mask)[:, 0]).sum()
            )
        if self.cost.extra:
            mean = pool(target, tokens.valid)[:, None].expand_as(encoded.extra)
            total = total + self.cost.extra * (hidden * self.cost(encoded.extra, mean).mean(1)).sum()
        if self.instances is not None and sample is not None:
            views = self.instances(self.student.pooled(encoded))
            found = self._found(self.instances, views, sample.repeat_interleave(self.masks))
            total = total + self.instances.shape.weight * (hidden * found).sum()
        return total, hidden.sum()

    def _found(
        self, instances: Instances, views: Float[Tensor, "view compared"], sample: Int[Tensor, " view"]
    ) -> Float[Tensor, " view"]:
        """Give what it costs to find a view's partners among those of all processes."""
        own = torch.arange(len(views), device=views.device)
        trainer = self._trainer
        if trainer is None or trainer.world_size == 1:
            return instances.cost(views, sample, views, sample, own)
        among, samples = self.all_gather(views, sync_grads=True), self.all_gather(sample)
        assert isinstance(among, Tensor) and isinstance(samples, Tensor)
        own += trainer.global_rank * len(views)
        return instances.cost(views, sample, among.flatten(0, 1), samples.flatten(), own)

    def _draws(self, batch: Batch, purpose: str) -> Draws:
        # Variants of a sample share its generator, and take turns with it.
        places = batch.place.unique_consecutive().tolist()
        each = self.masks * (len(batch.x) // len(places))
        return Draws([stream(self.seed, purpose, place) for place in places], each)

    def costs(self, batch: Batch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        return self.spend(batch.x, self._draws(batch, "mask"), batch.place)

    def measures(self, batch: Batch) -> dict[str, tuple[Float[Tensor, ""], Int[Tensor, ""]]]:
        # Of hidden tokens alone: how hard samples are to tell apart depends on how many are side by side.
        return {"loss": self.spend(batch.x, self._draws(batch, "val/mask"))}

    def predict_step(self, batch: Named, batch_idx: int) -> dict[str, Tensor]:
        return {"vector": self.student.embed(batch.x)}

    def optimizer_step(self, *args: Any, **keywords: Any) -> None:
        # Once per update of the student, however many batches that took, and before any callback of
        # the step: a checkpoint of step k then holds the teacher of step k.
        super().optimizer_step(*args, **keywords)
        self.update_teacher(self.ema.decay(self.global_step + 1, self.trainer.max_steps))

    def train(self, mode: bool = True) -> "Data2Vec":
        super().train(mode)
        self.teacher.eval()  # a target without dropout
        return self

    def followed(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Give each weight of the teacher, the student's, and whether the teacher is the student there."""
        named = zip(self.teacher.named_parameters(), self.student.parameters(), strict=True)
        for (name, kept), live in named:
            yield kept, live, name.split(".")[0] in self.ema.shared

    def update_teacher(self, decay: float) -> None:
        """Move the teacher towards the student: teacher = decay * teacher + (1 - decay) * student."""
        follow(self.followed(), decay)

    @torch.no_grad()
    def diagnose(self, x: Tensor) -> dict[str, float]:
        """Look for collapse on a fixed batch: of the targets, and of what the student makes of it."""
        self.eval()
        target, tokens = self.target(x)
        encoded = self.student.encode(tokens)
        pooled = pool(encoded.out, encoded.valid)
        self.train()
        return {
            "target_std": monitor.token_std(target, tokens.valid),
            "sample_share": monitor.sample_share(target, tokens.valid),
            "embedding_std": monitor.embedding_std(pooled),
            "effective_rank": monitor.effective_rank(pooled),
        }
