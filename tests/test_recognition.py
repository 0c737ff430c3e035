from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_trunk
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from torchmetrics.functional.text import char_error_rate, word_error_rate

from winnow.data.batches import UNLABELLED, Batch
from winnow.data.speech import Speech
from winnow.ssl import ctc
from winnow.ssl import model as models
from winnow.ssl.heads import Recognizer
from winnow.ssl.recognition import Recognition, error_counts
from winnow.ssl.trunk import Encoder

SPEECH = Speech(sample_rate_hz=8000, seconds=0.5, mels=16, frames_per_token=5)  # ten tokens
TEXTS = ["ab ba", "b", "aa", "a  b"]


def method(root: Path, texts: list[str] = TEXTS, **changed: Any) -> Recognition:
    if not root.exists():
        root.mkdir()
        torch.manual_seed(0)
        models.save(Encoder(SPEECH, tiny_trunk.SHAPE), root)
    settings: dict[str, Any] = {
        "dropout": 0.0,
        "steps_per_token": 1,
        "beam": 4,
        "unaligned": "error",
        "optimization": tiny.OPTIMIZATION,
        "seed": 0,
    }
    torch.manual_seed(1)
    return Recognition(SPEECH, texts, root, **{**settings, **changed})


def batch(*labels: int, tokens: int = 10) -> Batch:
    """Noise that is so many tokens long, each with the number of its transcript."""
    x = torch.zeros(len(labels), 50, 16)
    x[:, : 5 * tokens] = torch.randn(len(labels), 5 * tokens, 16, generator=torch.Generator().manual_seed(0))
    return Batch(x, torch.tensor(labels), torch.arange(len(labels)))


def test_the_cost_is_torchs_over_all_characters(tmp_path: Path) -> None:
    training = method(tmp_path / "a").eval()
    assert training.characters == [" ", "a", "b"]
    one = batch(0, 1, 3)
    total, number = training.costs(one)
    said = training.recognizer(one.x)
    spelled = torch.tensor([2, 3, 1, 3, 2, 3, 2, 1, 3])  # white space in a transcript is one space
    wanted = functional.ctc_loss(
        said.log_probs.transpose(0, 1),
        spelled,
        torch.tensor([10, 10, 10]),
        torch.tensor([5, 1, 3]),
        reduction="sum",
    )
    torch.testing.assert_close(total, wanted)
    assert number == 9


def test_padding_and_what_lies_beside_a_sample_do_not_count(tmp_path: Path) -> None:
    training = method(tmp_path / "a").eval()
    short, long = batch(1, tokens=4), batch(1, 0, tokens=10)
    beside = short._replace(x=torch.cat([short.x, long.x[1:]]), label=torch.tensor([1, 0]))
    alone, both = training.recognizer(short.x), training.recognizer(beside.x)
    assert alone.number.tolist() == [4] and both.number.tolist() == [4, 10]
    torch.testing.assert_close(both.log_probs[0, :4], alone.log_probs[0, :4])
    total, _ = training.costs(beside)
    parts = [
        training.costs(one)[0] for one in (short, beside._replace(x=beside.x[1:], label=beside.label[1:]))
    ]
    torch.testing.assert_close(total, sum(parts))


def test_each_token_tells_several_steps_in_their_order(tmp_path: Path) -> None:
    recognizer = method(tmp_path / "a", steps_per_token=3).recognizer.eval()
    x = batch(0, tokens=4).x
    said = recognizer(x)
    assert said.log_probs.shape == (1, 12, 4) and said.number.tolist() == [12]
    out = recognizer.encoder(x).out[0, 2]
    logits = (recognizer.head.weight @ out + recognizer.head.bias).reshape(3, 4)
    torch.testing.assert_close(said.log_probs[0, 6:9], logits.log_softmax(1))
    torch.testing.assert_close(said.log_probs.exp().sum(2), torch.ones(1, 12))


def test_a_transcript_with_too_few_steps_is_an_error_that_names_it_and_the_remedy(tmp_path: Path) -> None:
    training = method(tmp_path / "a")
    training.costs(batch(0, tokens=5))
    with pytest.raises(ValueError, match=r"'aa' needs 3 steps .* has 2: set model.steps_per_token higher"):
        training.costs(batch(1, 2, tokens=2))
    method(tmp_path / "a", steps_per_token=2).costs(batch(1, 2, tokens=2))


def test_skipped_transcripts_cost_nothing_and_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = method(tmp_path / "a", unaligned="skip")
    both, alone = batch(1, 2, tokens=2), batch(1, tokens=2)
    total, number = training.costs(both)
    wanted, _ = training.costs(alone._replace(x=both.x[:1]))
    torch.testing.assert_close(total, wanted)
    assert number == 1
    training.costs(both)
    assert [record.getMessage()[:50] for record in caplog.records] == [
        "skipped, now 1 transcripts: transcript 'aa' needs "
    ]
    nothing, number = training.costs(batch(2, tokens=2))
    nothing.backward()
    assert (nothing.item(), number.item()) == (0, 0)
    assert all(not p.grad.any() for p in training.parameters() if p.grad is not None)


def test_a_sample_without_transcript_counts_as_little_as_one_that_is_not_there(tmp_path: Path) -> None:
    training = method(tmp_path / "a").eval()
    one = batch(0, UNLABELLED, 1)
    total, number = training.costs(one)
    wanted, of = training.costs(Batch(one.x[::2], one.label[::2], one.place[::2]))
    torch.testing.assert_close(total, wanted)
    assert number == of


@pytest.mark.parametrize(("word", "split"), [("validate", "val"), ("test", "test")])
def test_scores_are_of_the_whole_split_however_it_is_batched(tmp_path: Path, word: str, split: str) -> None:
    training = method(tmp_path / "a")
    whole = batch(0, 1, 2, 3, UNLABELLED, 0, 1)
    parts = [Batch(*(part[i:j] for part in whole)) for i, j in ((0, 5), (5, 7))]
    loader = DataLoader(parts, batch_size=None)  # type: ignore[arg-type]
    (seen,) = getattr(tiny.trainer(1), word)(training, loader, verbose=False)
    told = [0, 1, 2, 3, 5, 6]
    wanted = [" ".join(TEXTS[i].split()) for i in whole.label[told].tolist()]
    with torch.no_grad():
        said = training.eval().recognizer(whole.x[told])
    names = {"": None, "beam_": 4} if word == "test" else {"": None}
    expected = {}
    for name, beam in names.items():
        texts = training.transcribe(said, beam)
        expected[f"{split}/{name}wer"] = pytest.approx(float(word_error_rate(texts, wanted)))
        expected[f"{split}/{name}cer"] = pytest.approx(float(char_error_rate(texts, wanted)))
    total, number = training.costs(whole)
    expected |= {f"{split}/loss": pytest.approx((total / number).item(), rel=1e-5), f"{split}/unaligned": 0}
    assert seen == expected


def test_error_rates_are_torchmetrics() -> None:
    wanted = ["one two three", "four", "five six", "a b c"]
    for texts in (wanted, ["", "", "", ""], ["one too three", "for four", "six five", "a b c d e"]):
        found = error_counts(texts, wanted)
        assert found["wer"][0] / found["wer"][1] == pytest.approx(float(word_error_rate(texts, wanted)))
        assert found["cer"][0] / found["cer"][1] == pytest.approx(float(char_error_rate(texts, wanted)))


def test_a_recognizer_comes_back_as_it_was_saved_and_is_no_classifier(tmp_path: Path) -> None:
    recognizer = method(tmp_path / "a", steps_per_token=2).kept.eval()
    (tmp_path / "kept").mkdir()
    models.save(recognizer, tmp_path / "kept")
    back = models.load(tmp_path / "kept")
    assert isinstance(back, Recognizer) and back.classes == [" ", "a", "b"]
    x = batch(0).x
    assert torch.equal(back(x).log_probs, recognizer(x).log_probs)
    assert torch.equal(models.load_encoder(tmp_path / "kept")(x).out, recognizer.encoder(x).out)
    with pytest.raises(ValueError, match="holds a Recognizer; finetune makes a classifier"):
        models.load_classifier(tmp_path / "kept")


def test_a_checkpoint_reads_and_scores_with_its_own_characters_and_learns_no_others(tmp_path: Path) -> None:
    first = method(tmp_path / "a")
    loader = DataLoader([batch(0, 1)], batch_size=None)  # type: ignore[arg-type]
    trainer = tiny.trainer(1)
    trainer.fit(first, loader, loader)
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    others = method(tmp_path / "a", ["ab", "bé"])
    (seen,) = tiny.trainer(1).test(others, loader, tmp_path / "last.ckpt", verbose=False)
    assert others.characters == [" ", "a", "b"]
    assert seen["test/unaligned"] == 0.5  # it cannot spell é
    x = batch(0, 1).x
    with torch.no_grad():
        assert torch.equal(others.recognizer(x).log_probs, first.eval().recognizer(x).log_probs)
    others = method(tmp_path / "a", ["ab", "bé"])
    with pytest.raises(ValueError, match="the checkpoint knows the characters"):
        tiny.trainer(2).fit(others, loader, loader, ckpt_path=tmp_path / "last.ckpt")


def test_two_batches_of_an_update_count_as_one(tmp_path: Path) -> None:
    """A character weighs the same wherever it was dealt."""
    whole = batch(0, 1, 2, 3)
    halves = [Batch(*(part[i : i + 2] for part in whole)) for i in (0, 2)]
    weights = []
    for parts in ([whole], halves):
        training = method(tmp_path / "a")
        trainer = tiny.trainer(1)
        trainer.accumulate_grad_batches = len(parts)
        loader = DataLoader(parts, batch_size=None)  # type: ignore[arg-type]
        trainer.fit(training, loader, loader)
        weights.append(training.recognizer.state_dict())
    for name, weight in weights[0].items():
        if name.endswith("key.bias"):  # softmax leaves it no gradient but the last digits of zero
            continue
        torch.testing.assert_close(weights[1][name], weight, msg=name)


def test_the_search_is_the_exact_one_of_its_width(tmp_path: Path) -> None:
    training = method(tmp_path / "a").eval()
    said = training.recognizer(batch(0, 1, tokens=3).x)
    found = training.transcribe(said, 1000)
    assert found == [training.read(ctc.beam_search(row[:3], 1000)) for row in said.log_probs]
