from pathlib import Path

from winnow.data.pages import provenance

PARAMS = """
vision:
  audit: {seed: 3, folds: 5}
  pretrain: {data: {seed: 1}}
  prune: {seed: 9}
"""


def read(path: Path, text: str) -> dict:
    path.write_text(text)
    return provenance.read("vision", path)


def test_seeds_are_those_of_what_a_report_depends_on(tmp_path: Path) -> None:
    assert read(tmp_path / "params.yaml", PARAMS)["seeds"] == {"audit.seed": 3, "pretrain.data.seed": 1}


def test_parameters_are_named_by_their_values_and_not_by_comments_or_what_comes_later(tmp_path: Path) -> None:
    first = read(tmp_path / "params.yaml", PARAMS)["params"]
    assert (
        read(tmp_path / "params.yaml", f"# another\n{PARAMS.replace('seed: 9', 'seed: 8')}")["params"]
        == first
    )
    assert read(tmp_path / "params.yaml", PARAMS.replace("folds: 5", "folds: 6"))["params"] != first


def test_nothing_is_known_of_parameters_that_are_not_there(tmp_path: Path) -> None:
    found = provenance.read("vision", tmp_path / "absent.yaml")
    assert found["params"] is None and found["seeds"] == {}


def test_code_is_named_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.py").write_text("1")
    first = provenance.code(tmp_path)
    (tmp_path / "data" / "a.txt").write_text("no code")
    assert provenance.code(tmp_path) == first
    (tmp_path / "data" / "a.py").write_text("2")
    assert provenance.code(tmp_path) != first
