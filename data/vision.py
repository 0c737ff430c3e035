"""Vision: an image is a square grid of patches."""

import base64
import hashlib
import io
import math
import warnings
from collections.abc import Mapping
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage
from torch import Generator, Tensor, nn
from torch.nn import functional

from winnow.data.measures import perceptual
from winnow.data.modality import Decoded, Modality, Reject, Tokens

MAX_PIXELS = 50_000_000  # more in one file is a bomb, or should be tiled before it comes here
_THUMBNAIL = 16  # side in pixels of what a descriptor sees
_SHARPNESS_SIDE = 64  # side in pixels at which sharpness is comparable between images
_MODES = {1: "L", 3: "RGB"}


@final
class Vision(Modality):
    """Images on a square canvas, cut into square patches.

    Args:
        size: side of the canvas [pixels].
        patch: side of a patch [pixels]; divides `size`.
        channels: 1 for grey, 3 for colour.

    Raises:
        ValueError: if `patch` does not divide `size`, or `channels` is neither 1 nor 3.
    """

    suffixes: ClassVar[frozenset[str]] = frozenset(
        {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
    )
    media_type: ClassVar[str] = "image/png"
    min_agreement: ClassVar[float] = 0.94

    def __init__(self, size: int, patch: int, channels: int) -> None:
        if size <= 0 or patch <= 0 or size % patch:
            raise ValueError(f"patch must divide size, not {patch} and {size}")
        if channels not in _MODES:
            raise ValueError(f"channels must be one of {sorted(_MODES)}, not {channels}")
        self.size, self.patch, self.channels = size, patch, channels
        self.grid = (size // patch, size // patch)

    def decode(self, raw: bytes) -> Decoded:
        """Put an image on the canvas: upright, its first frame, its middle square.

        The content decides, not the file's ending: a PNG named `.jpg` is an image like any other.
        """
        image = _open(raw)
        measures = _measures(image, self.channels)
        canvas = ImageOps.fit(
            _flat(image).convert(_MODES[self.channels]),
            (self.size, self.size),
            method=Image.Resampling.BICUBIC,  # antialiased where it shrinks
        )
        payload = io.BytesIO()
        canvas.save(payload, "PNG")
        return Decoded(payload.getvalue(), measures)

    def cuts(self, measures: Mapping[str, float]) -> bool:
        return measures["aspect_ratio"] < 1  # the middle square is kept

    def load(self, payload: bytes) -> Float32[Tensor, "channel height width"]:
        pixels = np.asarray(Image.open(io.BytesIO(payload)), dtype=np.float32)
        x = torch.from_numpy(pixels).reshape(self.size, self.size, self.channels)
        return (x.permute(2, 0, 1) / 255 - 0.5) / 0.5

    def transform(self, x: Tensor, generator: Generator, strength: float) -> Tensor:
        """Shift by up to an eighth, scale by up to a tenth, vary brightness and contrast; times the strength.

        Nothing is mirrored: a mirrored digit or letter is another one, or none.
        """
        drawn = strength * (2 * torch.rand(5, generator=generator) - 1)
        shift_x, shift_y, scale, gain, offset = drawn.tolist()
        zoom = math.exp(0.1 * scale)
        # A canvas runs from -1 to 1, so an eighth of it is 0.25.
        theta = torch.tensor([[[zoom, 0, 0.25 * shift_x], [0, zoom, 0.25 * shift_y]]])
        where = functional.affine_grid(theta, [1, *x.shape], align_corners=False)
        # What comes in from outside repeats the edge: no border that a model could learn.
        moved = functional.grid_sample(
            x[None], where, mode="bilinear", padding_mode="border", align_corners=False
        )[0]
        return (moved * (1 + 0.1 * gain) + 0.1 * offset).clamp(-1, 1)

    def draw(self, generator: Generator) -> Float32[Tensor, "channel height width"]:
        return 2 * torch.rand(self.channels, self.size, self.size, generator=generator) - 1

    def descriptor(self, payload: bytes) -> Float32[np.ndarray, " feature"]:
        """Describe an image by a thumbnail's pixels and the directions of its edges."""
        image = Image.open(io.BytesIO(payload))
        side = min(self.size, _THUMBNAIL)
        small = image.resize((side, side), Image.Resampling.BOX)
        pixels = np.asarray(small, dtype=np.float32).ravel() / 255
        grey = np.asarray(image.convert("L"), dtype=np.float32) / 255
        return np.concatenate([pixels, _edge_directions(grey)]).astype(np.float32)

    def identity(self, payload: bytes) -> bytes:
        """Tell images apart that differ in shape, in mode or in any pixel."""
        image = Image.open(io.BytesIO(payload))
        content = f"{image.size} {image.mode} ".encode() + image.tobytes()
        return hashlib.blake2b(content, digest_size=16).digest()

    def signature(self, payload: bytes) -> UInt16[np.ndarray, " entry"]:
        """Hash what an image looks like in grey, small."""
        grey = Image.open(io.BytesIO(payload)).convert("L")
        small = grey.resize((perceptual.SIDE, perceptual.SIDE), Image.Resampling.LANCZOS)
        return perceptual.bits(np.asarray(small, dtype=np.float64))

    def frontend(self, dim: int) -> nn.Module:
        return _Patches(self.channels, self.patch, dim)

    def preview(self, payload: bytes) -> str:
        data = base64.b64encode(payload).decode()
        return (
            f'<img src="data:image/png;base64,{data}" width="64" height="64" alt="sample" '
            'style="image-rendering:pixelated">'
        )


class _Patches(nn.Module):
    """Projects each patch to a token; every patch is valid."""

    def __init__(self, channels: int, patch: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, dim, kernel_size=patch, stride=patch)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Tokens:
        tokens = self.project(x).flatten(2).transpose(1, 2)
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device)
        return Tokens(tokens, valid)


def _open(raw: bytes) -> Image.Image:
    if not raw:
        raise Reject("the file is empty (0 bytes)")
    with warnings.catch_warnings():
        # The size is judged below; Pillow's other warnings are about harmless metadata.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(raw))  # reads the header only
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Reject(f"{width}×{height} pixels are more than {MAX_PIXELS:,}")
            image.load()
            return ImageOps.exif_transpose(image)
        except Reject:
            raise
        except UnidentifiedImageError as error:
            raise Reject("not an image that Pillow can read") from error
        except Image.DecompressionBombError as error:
            raise Reject(f"more than {MAX_PIXELS:,} pixels: {error}") from error
        except Exception as error:  # what decoders raise on broken bytes differs by format
            raise Reject(f"the image is truncated or broken: {error}") from error


def _flat(image: Image.Image) -> Image.Image:
    """Lay a transparent image on white and bring 16 bits down to 8."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        # These have no fixed range; 16-bit PNGs of older Pillows and float TIFFs come here.
        values = np.asarray(image, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise Reject("pixels are NaN or infinite")
        return Image.fromarray(((values - low) / ((high - low) or 1) * 255).astype(np.uint8))
    return image


def _measures(image: Image.Image, channels: int) -> dict[str, float]:
    width, height = image.size
    flat = _flat(image)
    grey = flat.convert("L")
    shares = np.array(grey.histogram(), dtype=np.float64) / (width * height)
    seen = shares[shares > 0]
    brightness = np.cumsum(shares)
    levels = np.arange(256) / 255
    contrast = math.sqrt(max(0.0, float(shares @ levels**2 - (shares @ levels) ** 2)))
    return {
        "width_px": float(width),
        "height_px": float(height),
        "aspect_ratio": min(width, height) / max(width, height),
        "brightness_p05": float(np.searchsorted(brightness, 0.05)) / 255,
        "brightness_p99": float(np.searchsorted(brightness, 0.99)) / 255,
        "contrast": contrast,
        "entropy_bits": float(-(seen * np.log2(seen)).sum()) + 0.0,
        "sharpness": _sharpness(grey),
        "colourfulness": _colourfulness(flat) if channels > 1 else math.nan,
    }


def _sharpness(grey: Image.Image) -> float:
    """Compare the edges of an image with its contrast; NaN if it is flat, and has no edges to blur.

    Edges alone would call every pale image blurred, and every strong blur of a rich one sharp.
    """
    small = grey.copy()
    small.thumbnail((_SHARPNESS_SIDE, _SHARPNESS_SIDE))
    levels = np.asarray(small, dtype=np.float64)
    contrast = float(levels.std())
    if contrast < 2:
        return math.nan
    # Rounding to whole levels makes edges of its own: a variance of 1/12, times 4² + 4 · 1² of the filter.
    edges = float(ndimage.laplace(levels, mode="nearest").var()) - 20 / 12
    return math.sqrt(max(0.0, edges)) / contrast


def _colourfulness(flat: Image.Image) -> float:
    """Give the mean distance of the strongest from the weakest colour of a pixel [0–1]."""
    small = flat.convert("RGB")
    small.thumbnail((_SHARPNESS_SIDE, _SHARPNESS_SIDE))
    return float(np.ptp(np.asarray(small, dtype=np.float64), axis=2).mean()) / 255


def _edge_directions(grey: Float32[np.ndarray, "height width"]) -> np.ndarray:
    """Histogram of oriented gradients: 4×4 cells of 9 unsigned directions, each cell normalised."""
    cells, directions = 4, 9
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    direction = np.floor(np.mod(np.arctan2(down, right), np.pi) / np.pi * directions).astype(int)
    rows, columns = (np.arange(side) * cells // side for side in grey.shape)
    cell = rows[:, None] * cells + columns[None, :]
    bins = (cell * directions + direction.clip(0, directions - 1)).ravel()
    histogram = np.bincount(bins, strength.ravel(), minlength=cells * cells * directions)
    histogram = histogram.reshape(-1, directions)
    # The constant keeps an empty cell from blowing noise up to full strength.
    return (histogram / (np.linalg.norm(histogram, axis=1, keepdims=True) + 0.1)).ravel()
