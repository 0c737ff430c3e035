"""A recognizer learns to write down what is said, by CTC over characters.

Its command line is LightningCLI: `python -m winnow.ssl.recognition fit --help`.
"""

import logging
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchaudio.functional import edit_distance

from winnow.data.batches import UNLABELLED, Batch
from winnow.data.modality import Modality
from winnow.data.reading import Named
from winnow.ssl import ctc
from winnow.ssl.heads import Recognizer, Steps
from winnow.ssl.method import Method, start
from winnow.ssl.train import Optimization, command_line

_log = logging.getLogger(__name__)


class Recognition(Method):
    """Trains a recognizer, trunk and head, from transcripts.

    The cost is the mean over all characters. Scores are the word and the character error rate, edits by
    number of words or characters of the transcripts, of greedy decoding (`wer`, `cer`) and, in testing, of a
    beam search (`beam_wer`, `beam_cer`); and `unaligned`, the share of samples that have too few steps for
    their transcript, or characters in it that the recognizer does not know. These count in the error rates
    and not in the loss. White space in transcripts counts as one space.

    Args:
        modality: of the samples.
        targets: the transcripts, which labels of a batch are numbers of.
        encoder: folder of the encoder to start from.
        dropout: of the trunk while training; instead of the encoder's own.
        steps_per_token: that the head tells of each token; more where tokens are fewer than characters.
        beam: width of the search; 1 keeps one row of characters, and still sums over its paths.
        unaligned: what becomes of a training sample that has too few steps: an `error`, or it is named in
            the log and left out (`skip`).
        optimization: learning rate and its schedule.
        seed: of the head and of dropout.

    Raises:
        ValueError: if the encoder reads other samples.
    """

    reads: ClassVar[str] = "transcripts"

    def __init__(
        self,
        modality: Modality,
        targets: list[str],
        encoder: Path,
        dropout: float,
        steps_per_token: int,
        beam: int,
        unaligned: Literal["error", "skip"],
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__(optimization, seed)
        trunk = start(encoder, modality, dropout)
        self.texts = [" ".join(text.split()) for text in targets]
        self.beam, self.unaligned = beam, unaligned
        characters = sorted(set("".join(self.texts)))
        self.recognizer = Recognizer(trunk, characters, steps_per_token).train()
        self._skipped: set[str] = set()

    @property
    def characters(self) -> list[str]:
        """What an index of the head stands for, less one: the first is the blank."""
        return self.recognizer.classes

    @property
    def kept(self) -> Recognizer:
        return self.recognizer

    def spell(self, text: str) -> list[int] | None:
        """Give the indices of a text's characters; None if one of them is unknown."""
        index = {character: i for i, character in enumerate(self.characters, 1)}
        return [index[c] for c in text] if index.keys() >= set(text) else None

    def read(self, indices: list[int]) -> str:
        """Give the text of indices: words with one space between them."""
        return " ".join("".join(self.characters[i - 1] for i in indices).split())

    def costs(self, batch: Batch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        return self._spend(self.recognizer(batch.x), batch.label)[:2]

    def _spend(
        self, said: Steps, label: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""], int]:
        """Give the cost of the samples that can be aligned, their characters, the number of other samples."""
        rows, spelled, others = [], [], 0
        for row, (index, steps) in enumerate(zip(label.tolist(), said.number.tolist(), strict=True)):
            if index == UNLABELLED:
                continue
            indices = self.spell(self.texts[index])
            if indices is not None and ctc.steps_needed(indices) <= steps:
                rows.append(row)
                spelled.append(indices)
                continue
            others += 1
            if self.training:
                self._cannot_align(self.texts[index], steps)
        chosen = torch.tensor(rows, dtype=torch.long, device=said.log_probs.device)
        # A sum of nothing still has to lead back to the weights: DDP waits for their gradients.
        total = 0.0 * said.log_probs.sum()
        if rows:
            total = total + ctc.costs(said.log_probs[chosen], said.number[chosen], spelled).sum()
        return total, torch.tensor(sum(map(len, spelled)), device=total.device), others

    def _cannot_align(self, text: str, steps: int) -> None:
        needed = ctc.steps_needed(self.spell(text) or [])
        problem = (
            f"transcript {text!r} needs {needed} steps of CTC, of which its sample has {steps}: set "
            "model.steps_per_token higher, or give the modality more tokens (speech: fewer frames_per_token) "
            "and pretrain again"
        )
        if self.unaligned == "error":
            raise ValueError(f"{problem}; model.unaligned 'skip' leaves such samples out")
        if text not in self._skipped:
            self._skipped.add(text)
            _log.warning("skipped, now %d transcripts: %s", len(self._skipped), problem)

    def transcribe(self, said: Steps, beam: int | None) -> list[str]:
        """Write down what was said, greedily or by a beam search of that width."""
        rows = [row[:steps] for row, steps in zip(said.log_probs, said.number.tolist(), strict=True)]
        return [self.read(ctc.greedy(row) if beam is None else ctc.beam_search(row, beam)) for row in rows]

    def measures(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        said = self.recognizer(batch.x)
        loss, number, others = self._spend(said, batch.label)
        told = [i for i, index in enumerate(batch.label.tolist()) if index != UNLABELLED]
        wanted = [self.texts[int(batch.label[i])] for i in told]
        measured = {
            "loss": (loss, number),
            "unaligned": (number.new_tensor(others), number.new_tensor(len(told))),
        }
        for name, beam in {"": None, **({"beam_": self.beam} if self.trainer.testing else {})}.items():
            texts = self.transcribe(Steps(said.log_probs[told], said.number[told]), beam)
            for kind, (edits, of) in error_counts(texts, wanted).items():
                measured[f"{name}{kind}"] = number.new_tensor(edits), number.new_tensor(of)
        return measured

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.measure(batch)

    def predict_step(self, batch: Named, batch_idx: int) -> dict[str, list[str]]:
        said = self.recognizer(batch.x)
        return {"transcript": self.transcribe(said, self.beam), "greedy": self.transcribe(said, None)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["characters"] = self.characters

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the characters, in which any samples can be read and scored.

        Raises:
            ValueError: if they are others than those to go on learning from.
        """
        known = checkpoint["characters"]
        if known == self.characters:
            return
        if self.trainer.training:
            raise ValueError(
                f"the checkpoint knows the characters {known}, the transcripts {self.characters}"
            )
        self.recognizer = Recognizer(self.recognizer.encoder, known, self.recognizer.steps_per_token)


def error_counts(texts: list[str], wanted: list[str]) -> dict[str, tuple[int, int]]:
    """Count edits (characters or words put in, left out or replaced), and what was wanted.

    Returns:
        For `wer` and `cer`: the edits, and the words or characters of the transcripts.
    """
    pairs = list(zip(texts, wanted, strict=True))
    return {
        "wer": (
            sum(edit_distance(text.split(), one.split()) for text, one in pairs),
            sum(len(one.split()) for one in wanted),
        ),
        "cer": (sum(edit_distance(text, one) for text, one in pairs), sum(map(len, wanted))),
    }


if __name__ == "__main__":
    command_line(Recognition)
