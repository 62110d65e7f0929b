"""An A/B test on real Ray: it divides conversations, ends by itself, and loses no request."""

import pytest
from typer.testing import CliRunner

from hotswap_ray.cli import app
from tests.ray.conftest import wait_until
from tests.worlds.system import Talk

pytestmark = pytest.mark.ray


def hotswap(*arguments):
    done = CliRunner().invoke(app, ["ab-test", *arguments])
    assert done.exit_code == 0, (done.stdout, done.exception)
    return done.stdout


def told(system, test_id):
    found, after = [], 0
    while page := system.controller("events", after, 100):
        found += page
        after = page[-1]["id"]
    return [e for e in found if e["kind"] == "ab_test" and e["doc"]["ab_test"] == test_id]


def test_the_better_model_is_found_and_no_conversation_saw_two(system, tmp_path):
    spec = {"variants": ["strong"], "settle_s": 0.5, "check_s": 0.2, "min_requests": 40}
    with Talk(system, "quiz") as talk:
        begun = system.controller("ab_test", "quiz", spec, "quiz-1")
        assert (begun["phase"], begun["control"]) == ("preparing", "weak")
        record = system.controller("ab_test_report", "quiz-1", 120, timeout=150)
        answered = len(talk.answers)
        wait_until(lambda: len(talk.answers) > answered + 8, what="the traffic goes on")
    assert (record["phase"], record["reason"]) == ("ended", "better")
    assert record["report"]["winner"] == "strong"
    assert talk.failed == []
    at_s = {event["doc"]["phase"]: event["at_s"] for event in told(system, "quiz-1")}
    assert list(at_s) == ["preparing", "settling", "running", "ending", "closing", "ended"]
    during = [{m for s, m in said if s < at_s["ending"]} for said in talk.answers.values()]
    assert [models for models in during if len(models) > 1] == []
    assert {model for models in during for model in models} == {"weak", "strong"}
    last = {said[-1][1] for said in list(talk.answers.values())[-8:]}
    assert last == {"weak"}  # only a report was asked for
    assert system.serves("quiz") == "weak"

    shown, drawing = hotswap("show", "quiz-1"), tmp_path / "quiz.svg"
    assert "quiz-1: quiz weak against strong is ended" in shown
    assert "strong is better than weak by +1.000" in shown
    assert "quiz-1" in hotswap("list")
    hotswap("show", "quiz-1", "--plot", str(drawing))
    assert drawing.read_text().startswith("<svg")
