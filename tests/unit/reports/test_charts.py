"""Plots are files of a kind that the name says, always the same, and asked for in time."""

import subprocess
import sys

import matplotlib
import pytest
from typer.testing import CliRunner

from hotswap_ray.cli import app
from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.reports.bench import plot
from hotswap_ray.reports.charts import save, svg

ROW = {
    "task": "t",
    "model": "a$b$c",
    "quality": 0.5,
    "quality_low": 0.4,
    "quality_high": 0.7,
    "latency_p50_ms": 12.0,
}


def test_the_same_figure_is_the_same_text_whatever_the_user_has_set():
    first = svg(plot([ROW]))
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert svg(plot([ROW])) == first
    assert first.startswith("<svg")


def test_drawing_leaves_the_settings_of_matplotlib_as_they_were():
    before = dict(matplotlib.rcParams)
    svg(plot([ROW]))
    assert dict(matplotlib.rcParams) == before


def test_a_name_is_written_as_it_is():
    assert ">a$b$c<" in svg(plot([ROW]))


@pytest.mark.parametrize(
    ("name", "begins"), [("x.svg", b"<svg"), ("x", b"<svg"), ("x.PNG", b"\x89PNG")]
)
def test_the_ending_of_a_file_says_what_is_written(tmp_path, name, begins):
    save(plot([ROW]), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize("command", [("bench",), ("ab-test", "show", "x")])
def test_without_matplotlib_a_plot_is_refused_before_any_work(monkeypatch, tmp_path, command):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused = CliRunner().invoke(app, [*command, "--plot", str(tmp_path / "x.svg")])
    assert isinstance(refused.exception, InvalidRequest)
    assert "pip install 'hotswap_ray[plots]'" in str(refused.exception)


def test_the_command_line_loads_no_matplotlib():
    code = "import sys, hotswap_ray.cli; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
