"""The report of an A/B test fits a terminal, and its plot shows what it says."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from hotswap_ray.core.rollout.ab_report import ABTestSpec, history, report
from hotswap_ray.reports.ab_test import plot, text
from hotswap_ray.reports.charts import svg
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


def words(drawn):
    return [node.text or "" for node in ET.fromstring(svg(drawn)).iter(f"{SVG}text")]


def named(drawn, kind):
    """What a plot holds under a name, as `dot:large`; in the file each is a group of this id."""
    ids = [node.get("id") or "" for node in ET.fromstring(svg(drawn)).iter(f"{SVG}g")]
    artists = {
        artist.get_gid(): artist
        for axes in drawn.axes
        for artist in axes.get_children()
        if (artist.get_gid() or "").partition(":")[0] == kind
    }
    assert set(artists) == {name for name in ids if name.partition(":")[0] == kind}
    return artists


def test_an_empty_report_has_text_and_plot():
    doc = report(ABTestSpec(variants=("b",)), "a", {}).to_doc()
    assert text(doc).startswith("The test is running after 0 requests")
    ET.fromstring(svg(plot(doc)))


def test_the_plot_is_a_forest_with_zero_margin_and_equivalence(case):
    doc, _ = case
    drawn = plot(doc)
    assert "large" in words(drawn)
    assert any("quality: difference to small" in word for word in words(drawn))
    (equal,) = named(drawn, "equivalence").values()
    assert (equal.get_x(), equal.get_width()) == pytest.approx((-0.03, 0.06))
    assert any("counts as equal (±0.03)" in word for word in words(drawn))
    effects = {one["model"]: one["effect"] for one in doc["comparisons"]}
    dots = {name: float(dot.get_xdata()[0]) for name, dot in named(drawn, "dot").items()}
    # idle has no effect yet
    assert dots == {f"dot:{model}": effects[model] for model in ("large", LONG)}
    better, worse = dots.values()
    assert worse < better
    assert not named(drawn, "band")


def test_the_plot_shows_how_the_interval_ran(case):
    drawn = plot(*case)
    assert len(named(drawn, "band")) == 2
    assert len(named(drawn, "line")) == 2
    assert "requests of all models" in words(drawn)


def test_names_are_escaped():
    doc = report(ABTestSpec(variants=("<b>",)), "a&a", {}).to_doc()
    assert "<b>" not in svg(plot(doc))
    assert "<b>" in words(plot(doc))
