"""How small a classifier of real data gets: accuracy, bytes, and dense ones of as many bytes beside it.

`python -m bench.compress DATASETS WORKSPACE [--sets digits clothes news] [--arms …] [--seeds 0 1 2]`
    pretrains and fine-tunes teachers on true labels, once, and compresses them in all the ways (arms) that
    bench/compress/arms.yaml tells, by the pipeline's own stages; prints Markdown tables
`… --time 50 --page FILE`
    also times the first seed's models, one thread, so many runs in turns, and draws accuracy against bytes
    and milliseconds

Sets: Free Spoken Digits, of which each of the six speakers is left out once (3,000 test samples in all);
Fashion-MNIST (10,000); AG News (7,600). A seed is that of batches, variants and dropout; the teacher is the
same. The interval of what is lost is a paired bootstrap over test samples, each of which counts with its mean
over seeds. Answers are those of the ONNX file in ONNX Runtime; bytes are those of the `.winnow` bundle. What
WORKSPACE holds of a run with the same settings is not run again: a folder there, removed, is.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.compress import tables
from bench.compress.arms import compress, timed
from bench.compress.sets import TITLES, changes, fields, taught, teach
from bench.latency import machine
from examples.real import laid_over
from winnow.compress import variants


def main() -> None:
    """Teach, compress and print what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compress",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("datasets", type=Path, help="holds fsdd/, FashionMNIST/ and ag_news/")
    parser.add_argument("workspace", type=Path, help="for teachers and runs")
    parser.add_argument("--sets", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--arms", nargs="+", help="of arms.yaml; all of them if left out")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--teachers", action="store_true", help="teach, and stop there")
    parser.add_argument("--time", type=int, metavar="ROUNDS", help="also time the models of the first seed")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also draw it all as a page")
    asked = parser.parse_args()
    if unknown := set(asked.arms or ()) - set(changes()["arms"]):
        parser.error(
            f"arms.yaml has no arm {', '.join(sorted(unknown))}; it has {', '.join(changes()['arms'])}"
        )
    torch.set_num_threads(1)
    drawn: list[dict[str, Any]] = []
    for name in asked.sets:
        places = list(fields(name, asked.datasets, asked.workspace))
        for field in places:
            teach(name, field)
        if asked.teachers:
            continue
        arms = laid_over(changes()["arms"], changes()[name].get("arms", {}))
        names = asked.arms or list(arms)
        teacher = np.concatenate([taught(field) for field in places])
        rows = {}
        for arm in names:
            seeds = [[compress(field, arms, arm, seed) for field in places] for seed in asked.seeds]
            rows[arm] = tables.row(arm, teacher, seeds)
        print(f"\n{TITLES[name]}, {len(teacher):,} test samples; teacher {100 * teacher.mean():.2f} %\n")
        print(tables.head(), *rows.values(), sep="\n", flush=True)
        for arm, one in rows.items():
            if (rival := rows.get(arms[arm].get("of", ""))) is not None:
                print(f"\n{tables.against(rival, one)}", flush=True)
            if (rival := rows.get(arms[arm].get("beside", ""))) is not None:
                print(f"\n{tables.against(one, rival)}", flush=True)
        taken: dict[str, dict[int, float]] = {}
        if asked.time:
            taken = timed(places[0], names, asked.seeds[0], asked.time)
            print(f"\nOne thread; {machine()}\n\n{tables.times(taken)}", flush=True)
        size = (places[0].out / "finetune" / "model.safetensors").stat().st_size
        dense = {arm for arm in names if "of" in arms[arm]}
        drawn += tables.records(TITLES[name], teacher, size, list(rows.values()), dense, taken)
    if asked.page:
        lead = "Accuracy on the test split, mean over seeds; intervals are of what was lost to the teacher."
        asked.page.write_text(variants.render("How small it gets", lead, drawn), encoding="utf-8")


if __name__ == "__main__":
    main()
