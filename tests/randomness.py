"""Random numbers for the rows of a batch, as methods give them to masks."""

from winnow.data.batches import stream
from winnow.ssl.draws import Draws


def draws(number: int, seed: int = 0, each: int = 1) -> Draws:
    return Draws([stream(seed, "test", place) for place in range(number)], each)
