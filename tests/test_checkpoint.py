import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import assert_same
from safetensors import safe_open

from winnow.ssl.checkpoint import PlainCheckpoint

TREE: dict[str, Any] = {
    "state_dict": {"w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2).half()},
    "optimizer": {0: {"step": torch.tensor(3.0), "betas": (0.9, 0.98)}, 1: {}},
    "nothing": None,
    "yes": True,
    "numbers": [1, -2.5, math.inf, -math.inf, 0.1],
    "words": ["", "ä", "tensor"],
    "empty": ([], {}, ()),
    "mask": torch.tensor([[True, False]]),
    "scalar": torch.tensor(7),
    "none at all": torch.empty(0, 3),
    "tensor": "a key that is also a kind",
    (1, "pair"): 2,
}


def round_trip(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    files = PlainCheckpoint()
    files.save_checkpoint(tree, path)
    return files.load_checkpoint(path)


def test_gives_back_what_it_was_given(tmp_path: Path) -> None:
    assert_same(round_trip(TREE, tmp_path / "a.ckpt"), TREE)


trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.lists(st.integers(-9, 9), max_size=3).map(torch.tensor),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(tree=st.dictionaries(st.text(max_size=3), trees, max_size=3))
def test_gives_back_any_tree(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    assert_same(round_trip(tree, tmp_path_factory.getbasetemp() / "any.ckpt"), tree)


def test_gives_back_what_is_not_a_number(tmp_path: Path) -> None:
    assert math.isnan(round_trip({"nan": math.nan}, tmp_path / "a.ckpt")["nan"])


def test_the_same_tensor_twice_and_views_of_one_another_are_kept(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tree = {"a": whole, "b": whole, "column": whole.T[1], "row": whole[1]}
    assert_same(round_trip(tree, tmp_path / "a.ckpt"), {k: v.clone() for k, v in tree.items()})


def test_the_types_that_lightning_hands_over_become_plain_ones(tmp_path: Path) -> None:
    tree = {
        "ordered": OrderedDict(b=1, a=2),
        "path": tmp_path,
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    back = round_trip(tree, tmp_path / "a.ckpt")
    assert_same(back, {"ordered": {"b": 1, "a": 2}, "path": str(tmp_path), "parameter": torch.ones(2)})


@pytest.mark.parametrize("thing", [object(), {1, 2}, lambda: None, 1j, b"bytes"])
def test_refuses_what_is_not_plain_and_says_what(tmp_path: Path, thing: object) -> None:
    with pytest.raises(TypeError, match=f"cannot hold a {type(thing).__name__}"):
        PlainCheckpoint().save_checkpoint({"deep": [{"thing": thing}]}, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_safetensors_with_a_readable_header_and_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    PlainCheckpoint().save_checkpoint(TREE, path)
    with safe_open(path, framework="pt") as file:
        assert set(file.metadata()) == {"tree"}
        json.loads(file.metadata()["tree"])
        stored = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    assert len(content) == 8 + header + stored  # numbers and a header: room for nothing else
    assert json.loads(content[8 : 8 + header])
    assert not content.startswith((b"PK", b"\x80"))


def test_reading_runs_no_code_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"w": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"a\.ckpt is no checkpoint"):
        PlainCheckpoint().load_checkpoint(path)


def test_a_save_that_fails_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, files = tmp_path / "last.ckpt", PlainCheckpoint()
    files.save_checkpoint({"step": 1, "w": torch.ones(3)}, path)

    def cut_off(tensors: Any, target: Path, metadata: Any) -> None:
        target.write_bytes(b"half a fi")
        raise OSError("no space left on device")

    monkeypatch.setattr("winnow.ssl.checkpoint.save_file", cut_off)
    with pytest.raises(OSError, match="no space"):
        files.save_checkpoint({"step": 2, "w": torch.zeros(3)}, path)
    assert_same(files.load_checkpoint(path), {"step": 1, "w": torch.ones(3)})
    monkeypatch.undo()
    files.save_checkpoint({"step": 3}, path)  # what was left behind is in nobody's way
    assert files.load_checkpoint(path) == {"step": 3}
    assert [found.name for found in tmp_path.iterdir()] == ["last.ckpt"]


def test_removing_is_allowed_twice(tmp_path: Path) -> None:
    path, files = tmp_path / "sub/a.ckpt", PlainCheckpoint()
    files.save_checkpoint({"a": 1}, path)
    files.remove_checkpoint(path)
    files.remove_checkpoint(path)
    assert not path.exists()
