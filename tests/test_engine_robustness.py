"""The engine under sanitizers: no plan, however broken, makes it touch what is not its own."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compiling import require_flags
from test_engine_encoder import drawn_encoder

from winnow.compress.engine import library, plan, running

# Not optimized: it compiles in a fifth of the time.
SANITIZERS = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
MUTATIONS = int(os.environ.get("WINNOW_MUTATIONS", "500"))  # of each plan


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    engine, program = folder / "engine.so", folder / "fuzz"
    require_flags(SANITIZERS, folder)
    library.build(engine, SANITIZERS)
    source = Path(__file__).with_name("engine_fuzz.cpp")
    flags = ["-std=c++17", *SANITIZERS, f"-I{library.SOURCES}"]
    command = [library.compiler(), *flags, str(source), str(engine), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return program


def small(kind: str) -> plan.Encoder:
    integers = kind != "rows"
    encoder = drawn_encoder(integers, most=20)
    drawn = np.random.default_rng(0)
    table = drawn.normal(size=(2, 20, 20)).astype(np.float32)
    out, norm = encoder.layers[0].out, encoder.first
    head = replace(out, weight=out.weight[:6], scale=out.scale[:6], bias=None)
    front = drawn.normal(size=(1, 32)).astype(np.float32)
    if kind == "tokens":
        return replace(encoder, head=head, extra=1, last=norm, last_is_pooled=True)
    if kind == "ids":
        ids = plan.Table(drawn.integers(-127, 128, (12, 32)).astype(np.int8), np.ones(12, np.float32), 0)
        return replace(encoder, head=head, extra=1, input=plan.Input(ids, None, norm, front))
    rows = plan.Rows(replace(out, weight=out.weight[:, :10]), padded=True)
    position = drawn.normal(size=(20, 32)).astype(np.float32)
    given = plan.Input(rows, position, None, None)
    return replace(encoder, biases=[table], pre_norm=True, last=norm, input=given)


@pytest.mark.parametrize(("kind", "block"), [("tokens", plan.DENSE), ("rows", None), ("ids", None)])
def test_broken_plans_are_errors_and_never_crashes(
    fuzzer: Path, tmp_path: Path, kind: str, block: int | None
) -> None:
    path = tmp_path / "plan"
    path.write_bytes(plan.write(small(kind), block))
    words = [str(fuzzer), str(path), str(MUTATIONS), "7"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.match(r"(\d+) of (\d+) opened; (.*)", done.stdout)
    assert found
    # Both happened: copies that are refused, and copies with other weights that are as good as the first.
    assert 0 < int(found[1]) < int(found[2]) == MUTATIONS
    assert found[3].split() == running.instructions()


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (0, 0, "it is no plan"),
        (4, 30, "heads are of 4, 8, 12"),
        (8, 3, "heads are of 4, 8, 12"),
        (12, 0, "a size is out of bounds"),
        (12, 3, "it ends too early"),
        (24, 5, "it ends too early"),
        (44, 2, "it ends too early"),
        (48, 4, "a size is out of bounds"),
        (48, 3, "it ends too early"),
        (60, 0x7FC00000, "a size is out of bounds"),
    ],
)
def test_a_refusal_says_what_is_wrong(at: int, value: int, why: str) -> None:
    content = bytearray(plan.write(drawn_encoder(integers=True, most=20)))
    content[at : at + 4] = value.to_bytes(4, "little")
    with pytest.raises(ValueError, match=why):
        running.Engine(bytes(content))


def test_layers_whose_matrices_do_not_fit_each_other_are_refused() -> None:
    encoder = drawn_encoder(integers=True, most=20)
    first, last = encoder.layers
    half = replace(first.key, weight=first.key.weight[:16], scale=first.key.scale[:16], bias=None)
    narrow = replace(first.out, weight=first.out.weight[:, :16])
    for wrong in (
        replace(first, key=half),
        replace(first, query=half, key=half, value=half),
        replace(first, fc1=first.out),
        replace(first, query=first.fc1, key=first.fc1, value=first.fc1, out=first.fc2),
    ):
        with pytest.raises(ValueError, match="a matrix of a layer has another size than the model"):
            running.load(replace(encoder, layers=[wrong, last]))
    one_head = replace(first, query=half, key=half, value=half, out=narrow)
    running.load(replace(encoder, layers=[one_head, last]))
    bias = np.zeros((2, 20, 20), np.float32)
    with pytest.raises(ValueError, match="they have not the same heads"):
        running.load(replace(encoder, layers=[one_head, last], biases=[bias]))


def test_a_plan_ends_where_it_ends() -> None:
    content = plan.write(drawn_encoder(integers=True, most=20))
    with pytest.raises(ValueError, match="it ends too early"):
        running.Engine(content[:-4])
    with pytest.raises(ValueError, match="goes on behind its end"):
        running.Engine(content + bytes(4))
