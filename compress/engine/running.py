"""The engine's functions, on NumPy arrays."""

import ctypes
import weakref

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from winnow.compress.engine import library, plan
from winnow.compress.engine.plan import Encoder, Matrix

_ERROR_BYTES = 256


def instructions() -> list[str]:
    """Name the sets of instructions that this machine runs, best first.

    Raises:
        library.Unavailable: if the engine cannot be built here.
    """
    return library.load().winnow_instructions().decode().split()


def _best() -> str:
    return instructions()[0]


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
        self.sizes = library.Sizes()
        self._library.winnow_measure(self._model, self.sizes)

    def tokens(
        self, x: Float32[np.ndarray, "batch token dim"], valid: Bool[np.ndarray, "batch token"]
    ) -> tuple[Float32[np.ndarray, "..."], Float32[np.ndarray, "batch dim"]]:
        """Run tokens through an encoder that has no input of its own.

        Args:
            x: tokens, with all that says where they stand, and the extra ones.
            valid: False where a row was filled up.

        Returns:
            Logits, and what the head made them of; or the tokens of a model without a head.

        Raises:
            ValueError: if the model does not take these.
        """
        if self.sizes.input or valid.shape != x.shape[:2]:
            raise ValueError("the model does not take tokens, or not with so many marks of what is valid")
        return self._run(np.ascontiguousarray(x, np.float32), np.ascontiguousarray(valid, np.uint8))

    def samples(
        self, x: Float32[np.ndarray, "batch token column"] | Int64[np.ndarray, "batch token"]
    ) -> tuple[Float32[np.ndarray, "batch class"], Float32[np.ndarray, "batch dim"]]:
        """Run samples through a classifier.

        Args:
            x: rows or ids, by the model's input.

        Returns:
            Logits, and what the head made them of.

        Raises:
            ValueError: if the model does not take these.
        """
        if x.ndim != {1: 3, 2: 3, 3: 2}.get(self.sizes.input):
            raise ValueError(f"the model does not take an array of {x.ndim} axes")
        if x.ndim == 3 and (missing := -x.shape[2] % 4):  # as its matrix is filled up
            x = np.pad(x, ((0, 0), (0, 0), (0, missing)))
        return self._run(np.ascontiguousarray(x, np.int64 if x.ndim == 2 else np.float32), None)

    def _run(self, x: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        sizes, batch = self.sizes, len(x)
        tokens = x.shape[1] + (sizes.extra if sizes.input else 0)
        shape = (batch, sizes.classes) if sizes.classes else (batch, tokens, sizes.dim)
        out = np.empty(shape, np.float32)
        pooled = np.empty((batch, sizes.dim), np.float32)
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        if self._library.winnow_run(
            *(self._model, x.ctypes.data, x.nbytes, None if valid is None else valid.ctypes.data),
            *(batch, tokens, out.ctypes.data, pooled.ctypes.data, error, len(error)),
        ):
            raise ValueError(error.value.decode())
        return out, pooled


def load(encoder: Encoder, threads: int = 1, instructions: str = "") -> Engine:
    """Bring an encoder into the engine's memory."""
    runs = instructions or _best()
    return Engine(plan.write(encoder, instructions=runs), threads, runs)


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
    content = plan.pack(matrix, block, instructions or _best())
    error = ctypes.create_string_buffer(_ERROR_BYTES)
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
