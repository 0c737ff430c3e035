"""Encoders from and to Hugging Face's data2vec.

    python -m winnow.ssl.interchange read data2vec-vision-base build/imported
    python -m winnow.ssl.interchange write out/vision/pretrain build/exported

What is read is safetensors: the older pickles can run code. Hugging Face has the encoders of the first
data2vec, without teacher, predictor and mask token. fairseq's data2vec 2.0 is read by
`winnow.ssl.published.fairseq`.
"""

import logging
from pathlib import Path

from jsonargparse import auto_cli

from winnow.ssl import model as models
from winnow.ssl.published.reading import from_huggingface
from winnow.ssl.published.writing import to_huggingface


def read(folder: Path, out: Path) -> None:
    """Read an encoder of Hugging Face's into a folder that winnow's stages start from.

    Args:
        folder: that `save_pretrained` wrote.
        out: receives `model.safetensors` and `config.json`.
    """
    out.mkdir(parents=True, exist_ok=True)
    models.save(from_huggingface(folder), out)


def write(model: Path, out: Path) -> None:
    """Write a model's encoder as Hugging Face reads it.

    Args:
        model: folder of an encoder or a classifier.
        out: receives `model.safetensors` and `config.json`.
    """
    to_huggingface(models.load_encoder(model), out)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    auto_cli([read, write])
