"""The report of an A/B test fits a terminal, and its plot is an SVG that shows what it says."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from hotswap_ray.core.rollout.ab_report import ABTestSpec, history, report
from hotswap_ray.reports.ab_test import plot, text
from tests.worlds.seen import seen

SVG = "{http://www.w3.org/2000/svg}"


def judged(rng, chance, number):
    latency_ms, quality = rng.lognormal(5, 0.3, number), (rng.random(number) < chance) * 1.0
    return seen(
        number, at_s=np.arange(number), quality=quality, latency_ms=latency_ms, cost_usd=0.001
    )


LONG = "a-model-with-a-name-of-no-fewer-than-60-characters-which-is-legal"


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(1)
    spec = ABTestSpec(variants=("large", LONG, "idle"))
    now = {
        "small": judged(rng, 0.6, 400),
        "large": judged(rng, 0.8, 400),
        LONG: judged(rng, 0.2, 400),
    }
    return report(spec, "small", now).to_doc(), history(spec, "small", now)


def test_the_text_begins_with_the_sentence_and_fits_a_terminal(case):
    doc, _ = case
    lines = text(doc).splitlines()
    assert max(map(len, lines)) <= 100
    assert " ".join(lines).startswith(doc["sentence"][:40])
    whole = " ".join(text(doc).split())
    assert "large" in whole
    assert "dropped" in whole
    assert "it gave up" in whole


def test_what_is_not_known_is_a_dash(case):
    (row,) = (
        line for line in text(case[0]).splitlines() if line.startswith("idle  ") and "%" in line
    )
    assert row.split()[1:] == ["0", "0%", "0", "-", "-", "-", "-", "-"]


def test_an_empty_report_has_text_and_plot():
    doc = report(ABTestSpec(variants=("b",)), "a", {}).to_doc()
    assert text(doc).startswith("The test is running after 0 requests")
    ET.fromstring(plot(doc))


def test_the_plot_is_a_forest_with_zero_margin_and_equivalence(case):
    doc, _ = case
    root = ET.fromstring(plot(doc))
    words = [node.text or "" for node in root.iter(f"{SVG}text")]
    assert "large" in words
    assert any("quality: difference to small" in word for word in words)
    titles = [node.text for node in root.iter(f"{SVG}title")]
    assert titles == ["equivalence: ±0.03"]
    assert len(list(root.iter(f"{SVG}circle"))) == 2  # idle has no effect yet
    assert not list(root.iter(f"{SVG}polygon"))
    dots = {c.get("fill"): float(c.get("cx")) for c in root.iter(f"{SVG}circle")}
    better, worse = dots.values()
    assert worse < better


def test_the_plot_shows_how_the_interval_ran(case):
    root = ET.fromstring(plot(*case))
    assert len(list(root.iter(f"{SVG}polygon"))) == 2
    assert len(list(root.iter(f"{SVG}polyline"))) == 2
    assert "requests of all models" in [node.text for node in root.iter(f"{SVG}text")]


def test_names_are_escaped():
    doc = report(ABTestSpec(variants=("<b>",)), "a&a", {}).to_doc()
    assert "<b>" not in plot(doc)
    ET.fromstring(plot(doc))
