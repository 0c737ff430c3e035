import logging
from pathlib import Path
from urllib.parse import unquote

import planted
import pytest
from test_page import Reader, require_self_contained

from winnow.compress import card
from winnow.data import index
from winnow.data.stage import BadInput


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of two datasets, of which the second has an odd name and no model."""
    out = tmp_path_factory.mktemp("out")
    home = planted.write_all(out)
    for name in ("text", "digits & <b>more"):
        folder = out / "report" / name / "data"
        planted.write_report(home, folder, examples=4)
    model = out / "report" / "text" / "model"
    model.mkdir()
    card.main("text", home, home / "pretrain", model, rounds=[1, 2])
    return out / "report"


def test_every_link_leads_to_a_report(reports: Path) -> None:
    out = reports.parent / "index.html"
    index.main(reports, out)
    links = Reader(out.read_text()).links
    away = [link for link in links if not link.startswith("#")]
    assert len(away) == 3
    for link in away:
        assert (out.parent / unquote(link)).is_file()


def test_links_are_relative_so_that_the_folder_can_be_moved(reports: Path) -> None:
    out = reports.parent / "index.html"
    index.main(reports, out)
    assert 'href="report/text/data/report.html"' in out.read_text()
    assert str(reports.parent) not in out.read_text()


def test_is_one_file_that_needs_nothing_else(reports: Path, tmp_path: Path) -> None:
    index.main(reports, tmp_path / "index.html")
    require_self_contained((tmp_path / "index.html").read_text())


def test_the_news_hold_the_headline_numbers_of_each_dataset(reports: Path, tmp_path: Path) -> None:
    first, second = index.main(reports, tmp_path / "index.html").splitlines()
    assert first.startswith("digits & ")
    assert second.startswith("text: 7 of 60 labels suspected; cleaning: +10.0 points (gain)")
    assert "int8: 93.5\u202f% at 1\u202fkB, 8 times smaller" in second
    assert "failed: Checks that failed" in second


def test_the_log_says_where_the_reports_are(
    reports: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        index.main(reports, reports.parent / "index.html")
    assert str(reports / "text/model/card.html") in caplog.text


def test_holds_no_timings(reports: Path, tmp_path: Path) -> None:
    index.main(reports, tmp_path / "index.html")
    assert " ms" not in (tmp_path / "index.html").read_text()


def test_a_folder_without_reports_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    with pytest.raises(BadInput, match="holds no report"):
        index.main(tmp_path / "report", tmp_path / "index.html")
