"""What the documentation shows is run, as it stands."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import tiny
import torch
from conftest import KINDS
from torch import nn

from winnow.compress.sparsity import matrices
from winnow.data.modality import Modality
from winnow.data.store import read_classes
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

EXAMPLES = Path(__file__).parents[1] / "examples"
SHARES = {
    "at_once": ("shufflenet", 0.5),
    "in_a_loop": ("GRU", 0.9),
    "in_lightning": ("convolutions", 0.8),
}


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / name)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Lightning would have workers for a loader that reads memory.
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("way", SHARES)
def test_sparsity_is_shown_in_three_ways(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model: nn.Module = getattr(example("sparsity.py"), way)()
    kind, share = SHARES[way]
    told = re.search(rf"{kind}.*: (0\.\d+) zeros", capsys.readouterr().out)
    assert told and float(told[1]) == pytest.approx(share, abs=0.003)
    zeros = sum(int((weight == 0).sum()) for weight in matrices(model).values())
    assert zeros > 0.4 * sum(weight.numel() for weight in matrices(model).values())


@pytest.mark.parametrize("kind", [KINDS[0]], ids=["vision"], indirect=True)
def test_slicing_is_shown_on_what_the_pipeline_leaves(
    modality: Modality,
    ingested: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "finetune").mkdir()
    (tmp_path / "ingest").symlink_to(ingested)
    torch.manual_seed(0)
    model = Classifier(Encoder(modality, tiny.SHAPE), read_classes(ingested))
    models.save(model, tmp_path / "finetune")
    monkeypatch.setattr("sys.argv", ["slicing", str(tmp_path)])
    example("slicing.py").main()
    whole, halved = (int(n) for n in re.findall(r"(\d+) parameters", capsys.readouterr().out))
    # Of both layers: one head of two, 16 channels of 32; weights and biases of what reads and writes them.
    assert whole - halved == 2 * (4 * 8 * 16 + 3 * 8 + 2 * 16 * 16 + 16)
