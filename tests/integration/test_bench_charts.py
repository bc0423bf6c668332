"""Charts of benchmark results: SVG files that are the same each time."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtest.bench.harness.charts import charts, draw, plot_directory
from loadtest.bench.harness.report import save
from loadtest.errors import LoadTestError
from tests.unit.test_bench_report import MACHINE, RESULTS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", RESULTS)
def test_charts_are_xml_with_units(kind, tmp_path):
    drawn = list(charts(RESULTS[kind]))
    assert drawn
    for chart in drawn:
        draw(chart, "<CPU> & more", tmp_path / "chart.svg")
        text = (tmp_path / "chart.svg").read_text()
        ElementTree.fromstring(text)
        assert "&lt;CPU&gt; &amp; more<" in text
        assert "nan" not in text
        assert any(
            unit in text for unit in ("a second<", "µs each<", "KB each<", ">ms", "ratio B/A", "ratio juggler/peer")
        )


def test_equal_results_give_equal_files(tmp_path):
    chart = next(charts(RESULTS["curve"]))
    for name in ("a.svg", "b.svg"):
        draw(chart, "note", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_each_result_of_a_directory_is_drawn(tmp_path):
    save(tmp_path / "some.json", MACHINE, [RESULTS["flat"]])
    names = [path.name for path in plot_directory(tmp_path)]
    assert names == ["some-rpc-calls-rate.svg", "some-rpc-cpu-time.svg", "some-rpc-latency.svg"]


def test_the_performance_page_shows_every_chart_beside_it():
    page, directory = (ROOT / "docs" / "performance.md").read_text(), ROOT / "docs" / "performance"
    names = re.findall(r"!\[[^]]+\]\(performance/([^)]+)\)", page)
    assert sorted(names) == sorted(path.name for path in directory.iterdir())


def test_a_chart_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(LoadTestError, match=r"cannot write .*chart\.svg"):
        draw(next(charts(RESULTS["flat"])), "note", tmp_path / "missing" / "chart.svg")


def test_a_directory_without_results_is_an_error(tmp_path):
    with pytest.raises(LoadTestError, match="no results in"):
        plot_directory(tmp_path)
