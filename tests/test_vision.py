import io

import numpy as np
import pytest
import torch
from conftest import png
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression

from winnow.data import vision
from winnow.data.modality import Reject
from winnow.data.vision import Vision

GREY = Vision(size=16, patch=4, channels=1)
COLOUR = Vision(size=16, patch=4, channels=3)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def canvas(raw: bytes, vision: Vision = COLOUR) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(vision.decode(raw).payload)))


def test_of_an_image_that_is_no_square_a_part_is_seen() -> None:
    for shape, cut in (((20, 20), False), ((20, 40), True)):
        pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
        assert GREY.cuts(GREY.decode(png(pixels)).measures) == cut


def test_every_patch_is_a_token_in_row_major_order():
    x = torch.zeros(2, 1, 16, 16)
    x[:, :, 4:8, 8:12] = 1  # second row, third column
    front = GREY.frontend(dim=8)
    blank = front(torch.zeros_like(x))
    changed = (front(x).x != blank.x).any(dim=2)
    assert blank.x.shape == (2, 16, 8) and blank.valid.all()
    assert changed.nonzero().tolist() == [[0, 6], [1, 6]]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("vision", [GREY, COLOUR], ids=["grey", "colour"])
def test_formats_end_on_one_canvas(format: str, vision: Vision):
    decoded = vision.decode(encode(Image.fromarray(NOISE), format))
    assert Image.open(io.BytesIO(decoded.payload)).format == "PNG"
    x = vision.load(decoded.payload)
    assert x.shape == (vision.channels, 16, 16) and x.dtype == torch.float32
    assert x.min() >= -1 and x.max() <= 1
    assert decoded.measures["width_px"] == 60 and decoded.measures["height_px"] == 40


def test_the_content_decides_not_the_name():
    # A PNG that is named .jpg reaches decode as bytes alone, and is an image like any other.
    assert GREY.decode(png(NOISE)).measures["width_px"] == 60


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_a_truncated_image_is_rejected(format: str):
    whole = encode(Image.fromarray(NOISE), format)
    with pytest.raises(Reject):
        GREY.decode(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("raw", "reason"), [(b"", "0 bytes"), (b"hello, world", "not an image"), (b"\x89PNG", "image")]
)
def test_what_is_no_image_is_rejected_with_a_reason(raw: bytes, reason: str):
    with pytest.raises(Reject, match=reason):
        GREY.decode(raw)


@pytest.mark.parametrize("side", [8_000, 20_000])
def test_a_decompression_bomb_is_rejected_before_it_is_unpacked(side: int):
    bomb = encode(Image.new("1", (side, side)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(Reject, match="pixels"):
        GREY.decode(bomb)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_broken_bytes_are_rejected_never_a_crash(data: st.DataObject):
    formats = ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]
    raw = bytearray(encode(Image.fromarray(NOISE), data.draw(st.sampled_from(formats))))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        GREY.decode(bytes(raw))
    except Reject as reject:
        assert str(reject)


def test_exif_orientation_is_applied():
    image = Image.fromarray(np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 64, axis=0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter to the right
    turned = canvas(encode(image, "PNG", exif=exif), GREY)
    assert turned[0].mean() < turned[-1].mean() and np.ptp(turned[8]) == 0


def test_an_animation_is_its_first_frame():
    frames = [Image.new("L", (20, 20), value) for value in (10, 250)]
    raw = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert canvas(raw, GREY).max() < 20


def test_transparency_lies_on_white():
    assert canvas(encode(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG")).min() == 255


def test_sixteen_bits_become_eight():
    levels = np.full((20, 20), 0x8000, dtype=np.uint16)
    assert set(np.unique(canvas(png(levels), GREY))) == {0x80}


def test_the_middle_square_is_kept():
    wide = np.zeros((10, 30), dtype=np.uint8)
    wide[:, 10:20] = 255
    assert canvas(png(wide), GREY)[:, 2:-2].min() > 200


def test_measures_of_planted_images():
    black, flat = np.zeros((20, 40), dtype=np.uint8), np.full((20, 40), 255, dtype=np.uint8)
    halves = np.hstack([black, flat])
    dark, split = (GREY.decode(png(pixels)).measures for pixels in (black, halves))
    assert dark["brightness_p99"] == 0 and dark["entropy_bits"] == 0 and dark["contrast"] == 0
    assert np.isnan(dark["sharpness"]) and np.isnan(dark["colourfulness"])
    assert dark["aspect_ratio"] == 0.5
    assert split["brightness_p05"] == 0 and split["brightness_p99"] == 1
    assert split["entropy_bits"] == pytest.approx(1) and split["contrast"] == pytest.approx(0.5)


PHOTOS = load_sample_images().images


def crops(number: int, side: int = 128) -> list[Image.Image]:
    """Cut squares out of two photographs, away from the sky."""
    random = np.random.default_rng(0)
    corners = random.integers([150, 0], [427 - side, 640 - side], (number, 2))
    return [Image.fromarray(PHOTOS[i % 2][y : y + side, x : x + side]) for i, (y, x) in enumerate(corners)]


def sharpness(image: Image.Image) -> float:
    return COLOUR.decode(encode(image, "PNG")).measures["sharpness"]


def test_strong_blur_is_told_from_a_sharp_image_of_any_contrast():
    for crop in crops(20)[::2]:  # the background of the other photograph is out of focus
        assert sharpness(crop.filter(ImageFilter.GaussianBlur(8))) < 0.12 < sharpness(crop)
        pale = Image.eval(crop, lambda level: 64 + level // 2)
        assert sharpness(pale) == pytest.approx(sharpness(crop), rel=0.2)


def test_grey_in_colour_is_measured_where_colours_are_looked_at():
    def colourfulness(image: Image.Image) -> float:
        return COLOUR.decode(encode(image, "PNG")).measures["colourfulness"]

    for crop in crops(5):
        assert colourfulness(crop.convert("L").convert("RGB")) == 0
        assert colourfulness(crop) > 0.02
    assert colourfulness(Image.new("RGB", (9, 9), (255, 0, 0))) == 1


def test_equal_pixels_are_identical_whatever_the_file_and_others_are_not():
    def identity(image: Image.Image, format: str = "PNG", vision: Vision = COLOUR) -> bytes:
        return vision.identity(vision.decode(encode(image, format)).payload)

    image = crops(1, 64)[0]
    assert identity(image) == identity(image, "BMP") == identity(image, "TIFF")
    assert len(identity(image)) == 16
    changed = image.copy()
    changed.putpixel((32, 32), (0, 255, 0))
    assert identity(changed) != identity(image)
    # The same bytes in another shape or mode are another image.
    flat = Image.new("L", (20, 20), 7)
    assert identity(flat, vision=GREY) != identity(flat, vision=Vision(size=20, patch=4, channels=1))
    assert identity(flat, vision=GREY) != identity(flat)


def agreement(one: Image.Image, other: Image.Image) -> float:
    big = Vision(size=64, patch=8, channels=3)
    a, b = (big.signature(big.decode(encode(image, "PNG")).payload) for image in (one, other))
    assert a.shape == (144,) and set(a.tolist()) <= {0, 1}
    return float((a == b).mean())


def test_copies_that_look_the_same_share_a_signature_and_other_images_do_not():
    images = crops(12)
    copies: dict[str, list[float]] = {}
    for image in images:
        small = image.resize((96, 96)).resize(image.size)
        jpeg = Image.open(io.BytesIO(encode(image, "JPEG", quality=60)))
        bright = Image.eval(image, lambda level: min(255, int(1.15 * level)))
        for name, copy in (("size", small), ("jpeg", jpeg), ("bright", bright)):
            copies.setdefault(name, []).append(agreement(image, copy))
    assert {
        name: np.median(found) >= Vision.min_agreement for name, found in copies.items()
    } == dict.fromkeys(copies, True)
    others = [agreement(a, b) for i, a in enumerate(images) for b in images[i + 2 :: 2]]
    assert max(others) < Vision.min_agreement


def test_transform_mirrors_nothing():
    # A ramp from dark to light stays one, whatever is drawn.
    x = torch.linspace(-1, 1, 16).expand(1, 16, 16)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        variant = GREY.transform(x, generator, 1.0)
        assert variant[..., -1].mean() > variant[..., 0].mean()


def test_descriptors_tell_digits_apart():
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    vectors = [GREY.descriptor(GREY.decode(png(image)).payload) for image in images]
    model = LogisticRegression(max_iter=500).fit(vectors[:1200], digits.target[:1200])
    assert model.score(vectors[1200:], digits.target[1200:]) > 0.94  # by other writers


def test_an_empty_image_has_a_finite_descriptor():
    assert np.isfinite(GREY.descriptor(GREY.decode(png(np.zeros((9, 9), np.uint8))).payload)).all()


@pytest.mark.parametrize("arguments", [(16, 5, 1), (16, 4, 2), (0, 4, 1)])
def test_impossible_sizes_are_refused(arguments: tuple[int, int, int]):
    with pytest.raises(ValueError, match="must"):
        Vision(*arguments)


def test_the_pixel_limit_is_pillows_or_less():
    assert vision.MAX_PIXELS <= Image.MAX_IMAGE_PIXELS
