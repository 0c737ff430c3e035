"""One trunk for several modalities: data2vec of each, in turns, through the same layers.

What a modality alone can know stays its own: frontend, positions and what else stands before the layers,
predictor, masks, target and loss. The layers, and the teacher's of them, are the same objects in all. An
update is by one modality, so that it is that of `Data2Vec`, exactly, also when it is split over processes and
accumulated batches; a sum over modalities would be divided by the hidden tokens of each, which are known when
their gradients have been added. Weights of a modality rest while it is not its turn: without a gradient,
AdamW touches neither them nor their moments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from jaxtyping import Float, Int
from torch import Tensor, nn

from winnow.data.batches import Batch
from winnow.data.modality import Modality
from winnow.data.turns import SampleSets, Turn
from winnow.ssl import model as models
from winnow.ssl.data2vec import Data2Vec, Loss
from winnow.ssl.ema import Ema, follow
from winnow.ssl.instances import InstanceShape
from winnow.ssl.masking import Masking
from winnow.ssl.method import Method
from winnow.ssl.monitor import CollapseMonitor
from winnow.ssl.predictors import DecoderShape, HeadShape
from winnow.ssl.shape import Shape
from winnow.ssl.targets import Target
from winnow.ssl.train import Optimization

# What all modalities have to agree about, of their settings.
ALIKE = {
    "shape": (
        "dim",
        "layers",
        "heads",
        "mlp_ratio",
        "norm",
        "norm_eps",
        "layer_scale",
        "biases",
        "dropout",
        "attention_dropout",
        "drop_path",
        "drop_layer",
    ),
    "ema": ("start", "end", "ramp", "steps"),
    "loss": ("scale",),  # that the layers hear all of them equally loud
}


@dataclass(frozen=True, kw_only=True)
class Member:
    """How one modality learns: arguments of `Data2Vec`."""

    shape: Shape
    masking: Masking
    masks: int
    complementary: bool
    target: Target
    predictor: DecoderShape | HeadShape
    loss: Loss
    instances: InstanceShape | None
    ema: Ema
    frontend_lr: float


class Joint(Method):
    """A `Data2Vec` for each modality, whose students share their layers, and whose teachers do.

    Args:
        modalities: give grids and frontends.
        members: settings of each.
        optimization: learning rate and its schedule, over the turns of all.
        seed: of masks and dropout.

    Raises:
        ValueError: if members are not those of the modalities, or differ where they have to agree.
    """

    samples = SampleSets

    def __init__(
        self,
        modalities: dict[str, Modality],
        members: dict[str, Member],
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__(optimization, seed)
        if modalities.keys() != members.keys():
            raise ValueError(f"members are {sorted(members)}, and modalities {sorted(modalities)}")
        require_alike(members)
        # By name, whatever their order in a config: an optimizer's state is told apart by its place alone.
        self.members = nn.ModuleDict(
            {
                name: Data2Vec(modality, **vars(members[name]), optimization=optimization, seed=seed)
                for name, modality in sorted(modalities.items())
            }
        )
        first, *others = (self.member(name) for name in self.members)
        for other in others:
            other.student.layers = first.student.layers
            other.teacher.layers = first.teacher.layers
        self.ema = first.ema
        self._of = ""  # whose turn it is
        self.train()

    def member(self, name: str) -> Data2Vec:
        """Give the part of one modality, which is a method of its own."""
        member = self.members[name]
        assert isinstance(member, Data2Vec)
        return member

    def save(self, out: Path) -> None:
        """Write each modality's encoder, as a whole one, into a folder of its name."""
        for name in self.members:
            (out / name).mkdir(exist_ok=True)
            models.save(self.member(name).student, out / name)

    def setup(self, stage: str) -> None:
        for name in self.members:
            self.member(name).trainer = self.trainer  # which Lightning tells to its own module alone

    def scales(self) -> dict[str, float]:
        return {
            f"members.{name}.{parameter}": factor
            for name in self.members
            for parameter, factor in self.member(name).scales().items()
        }

    def costs(self, batch: Batch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        return self.member(self._of).costs(batch)

    def measures(self, batch: Batch) -> dict[str, tuple[Float[Tensor, ""], Int[Tensor, ""]]]:
        found = self.member(self._of).measures(batch)
        return {f"{self._of}/{name}": measured for name, measured in found.items()}

    def report(self, loss: Float[Tensor, ""]) -> None:
        self.log(f"{self._of}/loss", loss, prog_bar=True)

    def on_train_batch_start(self, turn: Turn, batch_idx: int) -> None:  # type: ignore[override]
        self._of = turn.of
        super().on_train_batch_start(turn.batch, batch_idx)

    def training_step(self, turn: Turn, batch_idx: int) -> Float[Tensor, ""]:  # type: ignore[override]
        return super().training_step(turn.batch, batch_idx)

    def validation_step(  # type: ignore[override]
        self, turn: Turn, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._of = turn.of
        self.measure(turn.batch)

    def optimizer_step(self, *args: Any, **keywords: Any) -> None:
        super().optimizer_step(*args, **keywords)  # as in Data2Vec
        self.update_teacher(self.ema.decay(self.global_step + 1, self.trainer.max_steps))

    def update_teacher(self, decay: float) -> None:
        """Move all teachers towards their students, the layers that they share once.

        Also those whose turn it is not: a teacher is the mean of what its student was in the last updates,
        and all its parts are that over the same time.
        """
        weights = {id(pair[0]): pair for name in self.members for pair in self.member(name).followed()}
        follow(weights.values(), decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in self._twins():  # once is enough
            del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint["state_dict"]
        weights |= {name: weights[first] for name, first in self._twins().items()}

    def _twins(self) -> dict[str, str]:
        """Give the names of shared weights in all members but the first, and there."""
        first, *others = self.members
        return {
            f"members.{other}.{network}.layers.{name}": f"members.{first}.{network}.layers.{name}"
            for other in others
            for network in ("student", "teacher")
            for name in self.member(first).student.layers.state_dict()
        }


def require_alike(members: Mapping[str, Member]) -> None:
    """Make sure that modalities agree about what they share.

    Raises:
        ValueError: if they do not, with the setting and its values.
    """
    for part, names in ALIKE.items():
        for name in names:
            values = {
                member: getattr(getattr(settings, part), name) for member, settings in sorted(members.items())
            }
            if len(set(values.values())) > 1:
                said = ", ".join(f"{value!r} for {member}" for member, value in values.items())
                raise ValueError(f"one trunk needs one {part}.{name}; it is {said}")


class MemberMonitor(CollapseMonitor):
    """Watches one modality of a joint run.

    Args:
        member: whose targets and embeddings are watched.
        **settings: as for `CollapseMonitor`.
    """

    def __init__(self, member: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.member, self.prefix = member, f"{member}/"

    @property
    def state_key(self) -> str:
        return f"{type(self).__name__} {self.member}"

    def subject(self, trainer: lightning.Trainer, module: Any) -> tuple[Any, Any]:
        return module.member(self.member), trainer.datamodule.sets[self.member]  # type: ignore[attr-defined]
