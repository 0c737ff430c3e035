"""curated samples of several modalities → an encoder for each, with one trunk, without labels."""

from pathlib import Path
from typing import Any

from winnow.data import stage, store
from winnow.data.turns import rotation
from winnow.ssl import train
from winnow.ssl.joint import Joint


def main(
    root: Path,
    out: Path,
    *,
    turns: dict[str, int],
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    threads: int,
    sections: dict[str, Any],
    logs: Path,
) -> None:
    """Pretrain on the train splits of several modalities, in turns.

    Args:
        root: holds a folder of each modality, in which samples are, and the first round's decisions.
        out: receives for each modality a folder with what `pretrain` leaves: `model.safetensors`,
            `config.json`, `history.csv`, `metrics.json`.
        turns: of each modality in a round, updates.
        model: what replaces, in every modality's own `pretrain.model`, settings of the same name.
        data: arguments of `SampleSets` that are not those of `Samples`' folders.
        trainer: arguments of Lightning's `Trainer`; its steps are the turns of all.
        threads: of torch.
        sections: all of params.yaml.
        logs: receives logs and checkpoints.

    Raises:
        BadInput: if a modality has no section, or a trunk that others cannot share.
    """
    if missing := turns.keys() - sections["modalities"]:
        raise stage.BadInput(f"turns name {sorted(missing)}; modalities are {sections['modalities']}")
    own = {name: sections[name]["pretrain"] for name in turns}
    if borrowed := [name for name in turns if "timm" in own[name]["model"]["shape"]]:
        raise stage.BadInput(
            f"{borrowed[0]}.pretrain.model.shape names a model of timm, whose layers other kinds of samples "
            "cannot share: give it the keys dim, layers, …, or leave the modality out of pretrain_joint.turns"
        )
    optimization = model["optimization"]
    round_ = rotation(turns)
    method, history = train.fit(
        Joint,
        model={
            "members": {name: _joined(own[name]["model"], model) for name in turns},
            "optimization": optimization,
        },
        data={
            "origins": {
                name: {
                    "modality": sections[name]["modality"],
                    "ingest": str(root / name / "ingest"),
                    "labels": str(root / name / "curate@1"),
                    "variants": own[name]["data"]["variants"],
                }
                for name in turns
            },
            "turns": turns,
            **data,
        },
        trainer={
            **trainer,
            "callbacks": [
                *trainer.get("callbacks", []),
                *(_watch(name, own[name]["monitor"], len(round_) // turns[name]) for name in turns),
            ],
        },
        threads=threads,
        logs=logs,
    )
    method.save(out)
    for name in turns:
        part = history.part(name)
        part.write(out / name / "history.csv")
        last = part.rows[max(part.rows)]
        store.write_json(out / name / "metrics.json", {key: round(last[key], 6) for key in sorted(last)})


def _joined(own: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """Give a modality's settings with those of all instead of its own."""
    joined = {key: value for key, value in own.items() if key != "optimization"}
    for key in shared.keys() - {"optimization"}:
        joined[key] = {**joined[key], **shared[key]} if isinstance(shared[key], dict) else shared[key]
    return joined


def _watch(name: str, settings: dict[str, Any], turn: int) -> dict[str, Any]:
    # As often as in a run of its own, counted in its own turns.
    init_args = {"member": name, **settings, "every_steps": settings["every_steps"] * turn}
    return {"class_path": "winnow.ssl.joint.MemberMonitor", "init_args": init_args}


if __name__ == "__main__":
    train.run(main, Joint)
