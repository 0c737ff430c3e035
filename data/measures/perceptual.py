"""Perceptual hashes: bits that alike pictures share, of images or of spectrograms."""

import numpy as np
import scipy.fft
from jaxtyping import Float, UInt16

SIDE = 32  # of a plane that is hashed
_WAVES = 12  # along each side


def bits(plane: Float[np.ndarray, "32 32"]) -> UInt16[np.ndarray, " entry"]:
    """Say of the 12×12 lowest frequencies of a plane which are stronger than the middle one.

    Level, contrast, compression and resampling hardly change that. The usual 8×8 frequencies take small
    images of one kind, shirts say, for near duplicates.
    """
    waves = scipy.fft.dctn(plane)[:_WAVES, :_WAVES].ravel()
    return (waves > np.median(waves)).astype(np.uint16)
