"""What others published, of other tasks and larger models: how much smaller, what counts, what it cost."""

from typing import NamedTuple


class Published(NamedTuple):
    """A compressed model of a paper or of a public benchmark.

    Attributes:
        model: whose network, by which method.
        task: and the measure of it.
        sparsity: of the pruned matrices [0–1].
        bits: of weights and activations.
        ratio: how much smaller.
        counts: what that ratio counts.
        loss: of the measure [points].
        against: the model that ratio and loss are against.
        source: where it stands.
    """

    model: str
    task: str
    sparsity: float
    bits: int
    ratio: float
    counts: str
    loss: float
    against: str
    source: str


_PRUNE_OFA = "Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754); dense as in oBERT"
_NNCF = "Hugging Face, vuiseng9/bert-base-squadv1-pruneofa-90pc-bt-qat-lt; dense as in oBERT"
_OBERT = "oBERT (Kurtic et al. 2022, arXiv 2203.07259), table 17"
_MLPERF = "MLPerf Inference 2.1, open division, Neural Magic"
_KEPT = "kept weights of the encoder's matrices; no index, scale, bias, embedding"
_FILE = "the compressed file, against the dense one of 32 bits as it is"
_GZIP = "the file under gzip, against the dense one under gzip"
_BASE, _LARGE = "BERT-Base, dense", "BERT-Large, dense"
_SQUAD = "SQuAD 1.1, F1"

POINTS = (
    Published("BERT-Large, Prune OFA", _SQUAD, 0.90, 32, 10.0, _KEPT, -1.02, _LARGE, _PRUNE_OFA),
    Published("BERT-Base, Prune OFA", _SQUAD, 0.90, 32, 10.0, _KEPT, -1.29, _BASE, _PRUNE_OFA),
    Published("BERT-Base, Prune OFA, then int8 by NNCF", _SQUAD, 0.90, 8, 40.0, _KEPT, -0.83, _BASE, _NNCF),
    Published("BERT-Large, Prune OFA, 1×4 blocks", _SQUAD, 0.80, 8, 14.7, _FILE, -0.46, _LARGE, _MLPERF),
    Published("BERT-Large, oBERT", _SQUAD, 0.95, 8, 34.0, _FILE, -0.66, _LARGE, _MLPERF),
    Published("MobileBERT of 14 layers, oBERT", _SQUAD, 0.50, 8, 136.0, _FILE, -0.55, _LARGE, _MLPERF),
    Published("BERT-Base, oBERT, blocks of 4", _SQUAD, 0.80, 8, 10.2, _GZIP, -0.65, _BASE, _OBERT),
)
