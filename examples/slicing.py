"""Take half of the heads and half of the feed-forward channels away from a trained classifier.

`python -m examples.slicing out/vision` says what is left of its accuracy before any further training;
`distill` teaches what it has sliced.
"""

import argparse
import copy
from pathlib import Path

from torch.nn import functional

from winnow.compress.slicing import Slicing, sliced, taylor
from winnow.compress.teaching import parameters
from winnow.data import store
from winnow.data.batches import Batch, stack
from winnow.ssl import model as models
from winnow.ssl.classification import accuracy, predict
from winnow.ssl.model import Classifier


def halved(model: Classifier, samples: Batch) -> Classifier:
    """Copy a classifier with the half of each layer that the loss of these samples would miss most."""
    importance = taylor(
        model.encoder,
        lambda batch: functional.cross_entropy(model(batch.x), batch.label, reduction="sum"),
        [samples],
    )
    how = Slicing(score="taylor", samples=len(samples.x), scope="layer", multiple=8)
    small = copy.deepcopy(model)
    small.encoder = sliced(model.encoder, importance, how, heads=0.5, channels=0.5)
    return small


def main() -> None:
    """Slice the pipeline's own teacher."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of a modality's results: it has ingest and finetune")
    folder = parser.parse_args().folder
    model = models.load_classifier(folder / "finetune")
    manifest = store.read_table(folder / "ingest" / "manifest.parquet")
    manifest = manifest[manifest["label"].notna()]
    splits = {
        split: stack(model.encoder.modality, folder / "ingest", rows, model.classes)
        for split, rows in manifest.groupby("split")
    }
    train, held = splits["train"], splits["validation"]
    small = halved(model, Batch(*(part[:: max(len(train.x) // 256, 1)] for part in train)))
    for name, one in (("whole", model), ("halved", small)):
        right = accuracy(predict(one, held.x, 256), held.label)
        print(f"{name}: {parameters(one)} parameters, {right:.3f} of the validation labels")


if __name__ == "__main__":
    main()
