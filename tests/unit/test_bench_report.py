"""Rows, tables and JSON."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from loadtest.bench.generator.histogram import Histogram
from loadtest.bench.harness.load import Sample
from loadtest.bench.harness.registry import BENCHMARKS
from loadtest.bench.harness.report import Result, Row, in_order, more_is_better, read, row_of, save, shown, table
from loadtest.errors import LoadTestError

MACHINE = {"cpu": "<CPU>", "cores": 2, "revision": "abc", "date": "2026-01-02T03:04:05+00:00"}


def sample():
    latency = Histogram()
    for ns in (1_000_000, 2_000_000, 3_000_000):
        latency.record(ns)
    return Sample(count=3, rate=1.5, latency=latency, cpu={"server": 3e-6, "load": 6e-6})


RESULTS = {
    "flat": Result("rpc", {"seconds": 1.0}, [row_of("100 connections & more", "calls", sample())]),
    "curve": Result("scale", {}, [row_of(f"{x} URIs", "calls", sample(), x=x, curve="URIs") for x in (1, 10)]),
    "memory": Result("memory", {}, [Row("idle", {"server KB": 12.3, "Redis KB": -0.01, "opened/s": 5.0})]),
    "ratios": Result(
        "compare rpc", {"a": "v1", "b": "."}, [Row("calls/s", {"ratio": 1.1, "lowest": 0.9, "highest": 1.3})]
    ),
    "peers": Result(
        "peers",
        {},
        [Row("x is not installed", {}), Row("juggler beside NATS", {"ratio": 0.5, "lowest": 0.4, "highest": 0.6})],
    ),
    "layer": Result("websocket", {}, [Row("send", {"juggler µs": 1.0, "gevent-websocket µs": 2.0})]),
}


def test_a_row_has_rate_latency_and_cpu_time():
    values = row_of("row", "calls", sample()).values
    assert values["calls/s"] == 1.5
    assert values["p50 ms"] == pytest.approx(2, rel=0.03)
    assert values["max ms"] == 3
    assert (values["server µs"], values["load µs"]) == (pytest.approx(1), pytest.approx(2))


def test_higher_is_better_for_rates_only():
    assert more_is_better("calls/s")
    assert not more_is_better("server µs")
    assert not more_is_better("p50 ms")


def test_cpu_times_are_last_in_the_order_of_a_call():
    assert in_order(["load µs", "server µs", "a/s", "Redis µs"]) == ["a/s", "server µs", "Redis µs", "load µs"]


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234"), (-150, "-150")]
)
def test_numbers_have_three_digits(value, expected):
    assert shown(value) == expected


def test_a_missing_value_is_an_empty_cell():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(Result("x", {}, [Row("one", {"a ms": 1.0}), Row("two", {"b ms": 2.0})])))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["one", "1.00"] in lines
    assert ["two", "2.00"] in lines


def test_a_label_is_printed_as_it_is():
    console = Console(file=io.StringIO(), width=100)
    console.print(table(Result("peers", {}, [Row("NATS is not installed: pip install 'juggler[peers]'", {})])))
    assert "pip install 'juggler[peers]'" in console.file.getvalue()


def test_saved_results_can_be_read(tmp_path):
    path = tmp_path / "new" / "result.json"
    save(path, MACHINE, RESULTS.values())
    machine, results = read(path)
    assert machine == MACHINE
    assert [result.to_json() for result in results] == [result.to_json() for result in RESULTS.values()]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 2}', '{"format":1,"results":[3]}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(LoadTestError, match=r"other\.json is not a file of benchmark results"):
        read(path)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_has_defaults_for_all_options(name):
    benchmark = BENCHMARKS[name]
    assert set(benchmark.defaults()) == set(benchmark.names())
    assert benchmark.run.__doc__
