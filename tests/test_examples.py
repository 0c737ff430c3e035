"""What the documentation shows is run, as it stands."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from winnow.compress.sparsity import matrices

PATH = Path(__file__).parents[1] / "examples" / "sparsity.py"
SHARES = {
    "at_once": ("shufflenet", 0.5),
    "in_a_loop": ("GRU", 0.9),
    "in_lightning": ("convolutions", 0.8),
}


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Lightning would have workers for a loader that reads memory.
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("way", SHARES)
def test_sparsity_is_shown_in_three_ways(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model: nn.Module = getattr(example(), way)()
    kind, share = SHARES[way]
    told = re.search(rf"{kind}.*: (0\.\d+) zeros", capsys.readouterr().out)
    assert told and float(told[1]) == pytest.approx(share, abs=0.003)
    zeros = sum(int((weight == 0).sum()) for weight in matrices(model).values())
    assert zeros > 0.4 * sum(weight.numel() for weight in matrices(model).values())
