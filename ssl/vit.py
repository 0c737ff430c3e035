"""timm's Vision Transformers as a trunk of images: their parts, under the names that ours have.

What stays is all of `VisionTransformer` and `Eva` between the image and the last norm: patches, positions,
extra tokens, blocks, norms. Their heads and the ways they pool go.
"""

import importlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from winnow.data.modality import Modality, Tokens

_log = logging.getLogger(__name__)

PREFIX = ("cls_token", "dist_token", "reg_token")  # in the order in which they stand in front of the grid
HEADS = ("head.", "head_dist.", "attn_pool.", "norm_head.")
# What a block's feed-forward part is called; where attention and it end in one product, that is it.
FEED_FORWARD = ("mlp", "mlp_out_proj", "out_proj")


@dataclass(frozen=True, kw_only=True)
class TimmShape:
    """A Vision Transformer of timm as the trunk of images, at the modality's size, patch and channels.

    Attributes:
        timm: its name (`vit_small_patch16_224`), of timm's class VisionTransformer or Eva.
        options: arguments by which it differs from what the name stands for (`{qk_norm: true}`).
        weights: safetensors file with timm's names to start from; null: it starts at random. Nothing is
            downloaded. Positions and patches of another size, and colour for grey, are resampled.
        blocks: those of its blocks that are the layers, from 0; null: all.
    """

    timm: str
    options: dict[str, Any]
    weights: Path | None
    blocks: tuple[int, ...] | None

    def keeping(self, layers: list[int]) -> "TimmShape":
        """Give the shape of a trunk with these layers only."""
        kept = layers if self.blocks is None else [self.blocks[number] for number in layers]
        return TimmShape(timm=self.timm, options=self.options, weights=self.weights, blocks=tuple(kept))


class Parts(NamedTuple):
    """All attributes of `winnow.ssl.trunk.Encoder` that hang on its shape, and mean here what they do there.

    `norm` is what is done to the grid's and the extra tokens before the first layer, and `relative` what
    rotates queries and keys, if anything does.
    """

    dim: int
    frontend: nn.Module
    positions: nn.Parameter | None
    extra: nn.Parameter | None
    extra_tokens: int
    norm: nn.Module
    layers: nn.ModuleList
    relative: nn.ModuleList
    output_norm: nn.Module | None
    normed: str
    dropout: nn.Module
    position_norm: None = None
    convolutions: None = None
    drop_layer: float = 0.0


class TimmLayer(nn.Module):
    """A block of timm's, called as a layer of ours.

    Args:
        block: of a VisionTransformer or an Eva.
        row: of the rotations that is the block's, where every block has one; None: they are of all.

    Raises:
        ValueError: if it has no feed-forward part by a name that is known.
    """

    def __init__(self, block: nn.Module, row: int | None) -> None:
        super().__init__()
        self.block, self.row = block, row
        if hasattr(block, "ffns"):  # several, side by side
            self.taps = [f"ffns.{number}.mlp" for number, _ in block.get_submodule("ffns").named_children()]
        else:
            known = [name for name in FEED_FORWARD if getattr(block, name, None) is not None]
            if not known:
                raise ValueError(f"a block of the type {type(block).__name__} has no known feed-forward part")
            self.taps = known[:1]

    def forward(
        self,
        x: Float[Tensor, "batch seen dim"],
        allowed: Bool[Tensor, "batch 1 1 seen"] | None = None,
        rotations: Tensor | None = None,
    ) -> tuple[Float[Tensor, "batch seen dim"], Float[Tensor, "batch seen dim"]]:
        given: list[Tensor] = []
        hooks = [
            self.block.get_submodule(name).register_forward_hook(lambda module, x, out: given.append(out))
            for name in self.taps
        ]
        try:
            if rotations is None:
                y = self.block(x, attn_mask=allowed)
            else:
                own = rotations if self.row is None else rotations[self.row]
                y = self.block(x, rope=own, attn_mask=allowed)
        finally:
            for hook in hooks:
                hook.remove()
        return y, torch.stack(given).sum(0)


class Patches(nn.Module):
    """timm's patch embedding; every patch is valid."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Tokens:
        tokens = self.embed(x)
        if tokens.dim() == 4:  # as models with `dynamic_img_size` leave it
            tokens = tokens.flatten(1, 2)
        return Tokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device))


class Rotations(nn.Module):
    """What queries and keys are rotated by at each place of the grid.

    Args:
        rope: timm's.
        grid: tokens along each axis.
        extra: tokens in front of it, which are not rotated.
    """

    def __init__(self, rope: nn.Module, grid: tuple[int, ...], extra: int) -> None:
        super().__init__()
        self.rope, self.extra = rope, extra
        self.grid = None if getattr(rope, "feat_shape", None) is not None else list(grid)

    def forward(self, place: Int[Tensor, "batch seen"] | None) -> Float[Tensor, "..."]:
        """Give them for places, or for all in order, as timm's blocks take them."""
        embed: Callable[..., Tensor] = self.rope.get_embed  # type: ignore[assignment]
        of_grid = embed(shape=self.grid)  # [N, D], or [layer, H, N, D]
        if place is None:
            return of_grid
        found = of_grid[..., place[:, self.extra :] - self.extra, :]
        return found[:, None] if found.dim() == 3 else found.movedim(2, 1)  # [layer, B, H, N, D]


def parts(modality: Modality, shape: TimmShape) -> Parts:
    """Make a model of timm and take it to pieces.

    Raises:
        ValueError: if samples are no images, timm has no such model, it is built otherwise than ours can be,
            or its grid or weights do not fit.
    """
    model = _model(modality, shape)
    prefix = [token[0] for name in PREFIX if (token := getattr(model, name, None)) is not None]
    extra = torch.cat(prefix).detach() if prefix else None
    positions = None if model.pos_embed is None else model.pos_embed[0].detach()
    if positions is not None and extra is not None and not model.no_embed_class:
        extra, positions = extra + positions[: len(extra)], positions[len(extra) :]
    number = 0 if extra is None else len(extra)
    rope = getattr(model, "rope", None)
    mixed = getattr(model, "rope_mixed", False)
    depth = len(model.blocks)
    kept = range(depth) if shape.blocks is None else shape.blocks
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= depth:
        raise ValueError(f"shape.blocks must ascend within 0 to {depth - 1}, not {list(kept)}")
    norms = {"token": model.norm, "pooled": model.fc_norm}
    normed = next((of for of, norm in norms.items() if not isinstance(norm, nn.Identity)), "none")
    return Parts(
        dim=model.embed_dim,
        frontend=Patches(model.patch_embed),
        positions=None if positions is None else nn.Parameter(positions.clone()),
        extra=None if extra is None else nn.Parameter(extra.clone()),
        extra_tokens=number,
        norm=nn.Sequential(model.pos_drop, model.norm_pre),
        layers=nn.ModuleList(TimmLayer(model.blocks[row], row if mixed else None) for row in kept),
        relative=nn.ModuleList([] if rope is None else [Rotations(rope, modality.grid, number)]),
        output_norm=norms.get(normed),
        normed=normed,
        dropout=nn.Identity(),
    )


def _model(modality: Modality, shape: TimmShape) -> Any:
    from timm import create_model, is_model  # takes half a second, which no other trunk should wait for
    from timm.layers import PatchEmbed
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    project = getattr(modality.frontend(1), "project", None)
    if not isinstance(project, nn.Conv2d):
        raise ValueError(
            f"shape.timm {shape.timm!r} reads images, and {type(modality).__name__} are none: give "
            "shape the keys dim, layers, … instead"
        )
    if not is_model(shape.timm):
        raise ValueError(
            f"shape.timm {shape.timm!r}: timm has no model of this name; timm.list_models() tells"
        )
    (patch, _), (rows, columns) = project.kernel_size, modality.grid
    settings: dict[str, Any] = {
        "img_size": (rows * patch, columns * patch),
        "patch_size": patch,
        "in_chans": project.in_channels,
        "num_classes": 0,
    }
    taken = {*settings, *inspect.signature(create_model).parameters} & shape.options.keys()
    if taken:
        raise ValueError(
            f"shape.options cannot name {', '.join(sorted(taken))}: sizes are the modality's, weights are "
            "shape.weights, and nothing is downloaded"
        )
    try:
        model = create_model(shape.timm, **settings, **shape.options)
    except (TypeError, AssertionError) as error:
        raise ValueError(
            f"timm cannot make shape.timm {shape.timm!r} with shape.options {shape.options} and the "
            f"modality's {settings}: {error or 'sizes do not divide'}"
        ) from error
    wrong = None
    if not isinstance(model, VisionTransformer | Eva):
        wrong = f"it is a {type(model).__name__}, no VisionTransformer or Eva"
    elif type(model.patch_embed) is not PatchEmbed:
        wrong = f"its patches are made by a {type(model.patch_embed).__name__}, a network of its own"
    elif not isinstance(model.patch_drop, nn.Identity | None):
        wrong = "it drops patches (patch_drop_rate); here masking hides them"
    if wrong:
        raise ValueError(f"shape.timm {shape.timm!r} cannot be the trunk: {wrong}")
    for module in model.modules():
        if getattr(module, "qkv_bias_separate", None) is False:
            # The same sum, by a call of the Linear that int8 can reach.
            setattr(module, "qkv_bias_separate", True)  # noqa: B010
    if shape.weights is not None:
        _read(model, shape.weights)
    return model


def _read(model: Any, path: Path) -> None:
    from timm.models import adapt_input_conv, clean_state_dict

    if path.suffix != ".safetensors":
        raise ValueError(f"shape.weights {path} is no .safetensors file: other formats can run code")
    fitted = importlib.import_module(type(model).__module__).checkpoint_filter_fn(
        clean_state_dict(load_file(path)), model
    )
    first, wanted = "patch_embed.proj.weight", model.in_chans
    if first in fitted and fitted[first].shape[1] != wanted:
        fitted[first] = adapt_input_conv(wanted, fitted[first])
    own = model.state_dict()
    left = sorted(fitted.keys() - own.keys())
    if alien := [name for name in left if not name.startswith(HEADS)]:
        raise ValueError(
            f"{path} holds {', '.join(alien)}, which the model of shape.timm and options has not"
        )
    _log.info("not read: %s", ", ".join(left) or "nothing")
    try:
        model.load_state_dict({name: value for name, value in fitted.items() if name in own})
    except RuntimeError as error:
        raise ValueError(f"shape.weights {path} and the model do not fit: {error}") from error
