"""The command line of training: LightningCLI, with plain checkpoints, and predictions that go to disk."""

import inspect
import tempfile
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import lightning
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden

from winnow.data.datamodule import Samples
from winnow.ssl.prediction import PredictionWriter
from winnow.ssl.sharding import Sharded

_STEP_OF = {"validate": "validation_step", "test": "test_step", "predict": "predict_step"}
WORDS = {"fit", *_STEP_OF, "-h", "--help", "--print_config"}


class Trainable(lightning.LightningModule):
    """What the command line asks of a method, beside what Lightning does.

    Attributes:
        samples: its data module.
    """

    samples: ClassVar[type[lightning.LightningDataModule]] = Samples

    def save(self, out: Path) -> None:
        """Write what the training is for into a folder, as stages read it."""
        raise NotImplementedError


class Cli(LightningCLI):
    """LightningCLI, whose data module makes the modalities and hands them to the method.

    Args:
        method: it need not do all that Lightning knows.
        defaults: of Lightning's `Trainer`.
        callbacks: objects, beside those that a config describes.
        **keywords: of LightningCLI.
    """

    def __init__(
        self,
        method: type[Trainable],
        *,
        defaults: dict[str, Any],
        callbacks: tuple[Callback, ...],
        **keywords: Any,
    ) -> None:
        self._method, self._method_parameters = method, set(inspect.signature(method).parameters)
        self._defaults, self._callbacks = defaults, callbacks
        super().__init__(method, method.samples, **keywords)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({f"trainer.{name}": value for name, value in self._defaults.items()})
        parser.link_arguments("data.seed", "model.seed")
        for name in sorted({"modality", "modalities", "classes"} & self._method_parameters):
            parser.link_arguments("data", f"model.{name}", attrgetter(name), apply_on="instantiate")
        if "spread" in self._method_parameters:
            parser.link_arguments("data", "model.spread", lambda data: data.spread(), apply_on="instantiate")
        if "targets" in self._method_parameters:
            parser.link_arguments("data.classes", "model.targets", apply_on="instantiate")
            parser.set_defaults({"data.targets": self._method.reads})  # type: ignore[attr-defined]

    def instantiate_trainer(self, **keywords: Any) -> lightning.Trainer:
        if self._get(self.config_init, "trainer").strategy == "fsdp":
            keywords["strategy"] = Sharded()
        trainer = super().instantiate_trainer(**keywords)
        # Behind those whose numbers a history keeps, in front of the checkpoints, which are to hold what
        # all of them did to the step.
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        place = sum(not isinstance(callback, Checkpoint) for callback in callbacks)
        callbacks[place:place] = self._callbacks
        return trainer

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Offer what the method can do."""
        known = LightningCLI.subcommands()
        known["predict"].add("return_predictions")  # they go to disk
        return {
            name: skip
            for name, skip in known.items()
            if name == "fit" or is_overridden(_STEP_OF[name], self._method, lightning.LightningModule)
        }

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **keywords: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **keywords)
        if subcommand == "predict":
            parser.add_argument(
                "--out",
                type=Path,
                required=True,
                help="Folder that receives Parquet files, one row for each sample; must not exist.",
            )
        return parser

    def after_fit(self) -> None:
        """Leave the network beside the logs of `fit`, in the form that a stage leaves it in."""
        logs = self.trainer.log_dir  # asked of all processes: they agree about it
        with tempfile.TemporaryDirectory() as elsewhere:
            out = Path(logs or self.trainer.default_root_dir) / "model"
            # All of them put sharded weights together, and the first one keeps them.
            place = out if self.trainer.is_global_zero else Path(elsewhere)
            place.mkdir(parents=True, exist_ok=True)
            self.model.save(place)

    def _parse_ckpt_path(self) -> None:
        """Look for no arguments in a checkpoint: it holds none, and Lightning would unpickle it."""

    def before_instantiate_classes(self) -> None:
        if self.subcommand in {None, "fit"}:
            return
        settings = self.config[self.subcommand]
        if settings.ckpt_path is None:
            self._parser(self.subcommand).error(
                f"{self.subcommand} needs --ckpt_path: a checkpoint that training has written"
            )
        loggers = settings.trainer.logger
        for logger in loggers if isinstance(loggers, list) else []:
            # What training has logged stays as it is: the config that was given may be its own.
            if logger.init_args.get("version") == "":
                logger.init_args.version = self.subcommand

    def predict(self, **keywords: Any) -> None:
        """Write predictions to `--out`."""
        writer = PredictionWriter(self.config_init["predict"]["out"])
        self.trainer.callbacks.append(writer)  # type: ignore[attr-defined]
        self.trainer.predict(return_predictions=False, **keywords)


def companions(logs: Path) -> dict[str, Any]:
    """Describe what every run has beside its section: logs, checkpoints, a progress bar.

    As class paths and not as objects, so that the saved config says all and can be run again.
    """

    def component(class_path: str, /, **init_args: Any) -> dict[str, Any]:
        return {"class_path": class_path, "init_args": init_args}

    loggers = "lightning.pytorch.loggers."
    callbacks = "lightning.pytorch.callbacks."
    return {
        "max_epochs": 1,  # the batches of a run are endless: its end is max_steps
        "enable_model_summary": False,
        "logger": [
            component(loggers + "CSVLogger", save_dir=str(logs), name="", version=""),
            component(loggers + "TensorBoardLogger", save_dir=str(logs), name="", version=""),
        ],
        "callbacks": [
            component(callbacks + "RichProgressBar", leave=True),
            component(
                callbacks + "ModelCheckpoint",
                dirpath=str(logs / "checkpoints"),
                save_last=True,
                enable_version_counter=False,
            ),
        ],
        "plugins": [component("winnow.ssl.checkpoint.PlainCheckpoint")],
    }
