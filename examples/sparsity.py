"""Make any network sparse, in three ways: at once, in a loop of one's own, in Lightning.

`python -m examples.sparsity` prints what is left of a network each time. Nothing here is special to the
networks of this project: the first is torchvision's, the second recurrent, the third convolutional.
"""

import lightning
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from winnow.compress.allocation import erdos_renyi_kernel, overall
from winnow.compress.callbacks import Pruning
from winnow.compress.patterns import NM, Blocks
from winnow.compress.schedules import Polynomial, PolynomialDecay
from winnow.compress.scores import Movement
from winnow.compress.sparsity import Pruner, hold, measured_sparsity, prune, require_zeros


def at_once() -> nn.Module:
    """Prune a trained network once, half of each four weights in a row, and train on."""
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=3)

    def choose(name: str, weight: nn.Parameter) -> bool:
        return weight.dim() == 4 and weight.shape[1] % 4 == 0  # not the stem, which reads three colours

    keep = prune(model, 0.5, NM(n=2, m=4), choose=choose)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    hold(model, keep, optimizer)  # from now on, every step ends with exact zeros
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.arange(8) % 3).backward()
        optimizer.step()

    require_zeros(model, keep)  # before saving; names and shapes are those of the dense network
    print(f"shufflenet, 2:4: {measured_sparsity(model, choose):.4f} zeros in {len(keep)} weights")
    return model


class Keywords(nn.Module):
    """A word out of some frames of speech."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(40, 64, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0].mean(1))


def in_a_loop() -> nn.Module:
    """Prune along TensorFlow's schedule, by how weights move, one threshold for the whole network."""
    model = Keywords()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = PolynomialDecay(begin=0, end=30, frequency=5, power=3.0, initial=0.5, final=0.9)
    pruner = Pruner(score=Movement(), allocate=overall)
    for step in range(1, 41):
        optimizer.zero_grad()
        functional.cross_entropy(model(torch.randn(16, 50, 40)), torch.randint(10, (16,))).backward()
        pruner.watch(model)  # scores of gradients only; it does nothing for others
        optimizer.step()
        pruner.step(model, step, schedule, [optimizer])
    require_zeros(model, pruner.keep)
    print(f"GRU, by movement: {measured_sparsity(model):.4f} zeros")
    return model


class Digits(lightning.LightningModule):
    """A small network for small images."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, label = batch
        return functional.cross_entropy(self.network(x), label)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def in_lightning() -> nn.Module:
    """Add a callback to a `Trainer`; it refuses to save a checkpoint whose zeros have moved."""
    module = Digits()
    pruning = Pruning(
        sparsity=0.8,
        schedule=Polynomial(begin=0.1, end=0.6, refresh=0.8, frequency=2, power=3.0, initial=0.0),
        pattern=Blocks(block=(1, 4), pooling="average"),
        allocate=erdos_renyi_kernel,
    )
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[pruning],
    )
    data = TensorDataset(torch.randn(160, 1, 8, 8), torch.randint(10, (160,)))
    trainer.fit(module, DataLoader(data, batch_size=16))
    require_zeros(module, pruning.keep)
    print(f"convolutions, 1x4, ERK: {measured_sparsity(module):.4f} zeros")
    return module


def main() -> None:
    """Run all three."""
    torch.manual_seed(0)
    at_once()
    in_a_loop()
    in_lightning()


if __name__ == "__main__":
    main()
