"""The engine's functions, on NumPy arrays."""

import ctypes
import weakref

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from winnow.compress.engine import library, plan
from winnow.compress.engine.plan import Encoder, Matrix

_ERROR_BYTES = 256


def instructions() -> list[str]:
    """Name the sets of instructions that this machine runs, best first.

    Raises:
        library.Unavailable: if the engine cannot be built here.
    """
    return library.load().winnow_instructions().decode().split()


def peak(name: str = "") -> float:
    """Measure how many products of a uint8 and an int8 one core can do at most [1/s]."""
    return library.load().winnow_peak(name.encode())


class Engine:
    """An encoder in the engine's memory.

    Args:
        content: of a plan, as `plan.write` makes it.
        threads: that one run uses.
        instructions: one of `instructions()`; empty: the best.

    Raises:
        ValueError: if the plan is broken, or the machine has no such instructions.
        library.Unavailable: if the engine cannot be built here.
    """

    def __init__(self, content: bytes, threads: int = 1, instructions: str = "") -> None:
        self._library, error = library.load(), ctypes.create_string_buffer(_ERROR_BYTES)
        self._model = self._library.winnow_open(
            content, len(content), instructions.encode(), threads, error, len(error)
        )
        if not self._model:
            raise ValueError(f"the engine does not take the model: {error.value.decode()}")
        weakref.finalize(self, self._library.winnow_close, self._model)
        dim, classes = (int.from_bytes(content[at : at + 4], "little") for at in (4, 28))
        self.dim, self.classes = dim, classes

    def __call__(
        self, x: Float32[np.ndarray, "batch token dim"], valid: Bool[np.ndarray, "batch token"]
    ) -> Float32[np.ndarray, "..."]:
        """Run tokens through the encoder.

        Args:
            x: tokens, with all that says where they stand, and the extra ones.
            valid: False where a row was filled up.

        Returns:
            Logits, or the tokens of a model without a head.

        Raises:
            ValueError: if there are more tokens than the model takes, or they are of another width.
        """
        batch, tokens, dim = x.shape
        if dim != self.dim or valid.shape != (batch, tokens):
            raise ValueError(
                f"tokens of {x.shape} and {valid.shape} do not go into a model of width {self.dim}"
            )
        x, valid = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(valid, np.uint8)
        out = np.empty((batch, self.classes) if self.classes else x.shape, np.float32)
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        if self._library.winnow_run(
            *(self._model, x.ctypes.data, valid.ctypes.data, batch, tokens),
            *(out.ctypes.data, out.size, error, len(error)),
        ):
            raise ValueError(error.value.decode())
        return out


def load(encoder: Encoder, threads: int = 1, instructions: str = "") -> Engine:
    """Bring an encoder into the engine's memory."""
    return Engine(plan.write(encoder), threads, instructions)


def product(
    matrix: Matrix,
    x: UInt8[np.ndarray, "token column"],
    block: int | None = None,
    instructions: str = "",
    repeats: int = 1,
) -> tuple[Int32[np.ndarray, "token row"], list[float]]:
    """Multiply levels by a matrix: what one kernel does, alone.

    Args:
        matrix: with any zeros.
        x: levels.
        block: rows of a block, or `plan.DENSE`; None: what promises to be fastest.
        instructions: one of `instructions()`; empty: the best.
        repeats: how often, for its time.

    Returns:
        Sums with the bias, less the zero point's share, and the time of each repeat [s].

    Raises:
        ValueError: if the machine has no such instructions, or columns do not fit.
    """
    rows, columns = matrix.weight.shape
    if x.shape[1] != columns:
        raise ValueError(f"{x.shape[1]} channels do not go into a matrix of {columns} columns")
    content, error = plan.pack(matrix, block), ctypes.create_string_buffer(_ERROR_BYTES)
    high, wide = -(-rows // 4) * 4, -(-columns // 4) * 4
    levels = np.zeros((len(x), wide), np.uint8)
    levels[:, :columns] = x
    out, seconds = np.empty((len(x), high), np.int32), np.empty(repeats)
    if library.load().winnow_product(
        *(content, len(content), instructions.encode(), levels.ctypes.data, len(x)),
        *(out.ctypes.data, out.size, repeats, seconds.ctypes.data, error, len(error)),
    ):
        raise ValueError(error.value.decode())
    return out[:, :rows], seconds.tolist()
