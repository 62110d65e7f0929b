"""Answers of live traffic are judged whatever a check does to the judge."""

from __future__ import annotations

import asyncio
import pickle
import time
from contextlib import suppress

import orjson
import pytest

from hotswap_ray.actors.cluster.judge_here import answer_text, judge_here
from hotswap_ray.actors.cluster.judge_watchdog import MOST_JOBS, JudgeWatchdog
from hotswap_ray.actors.judge.judge import Judge
from hotswap_ray.core.answers.judge_messages import REST_S, STRIKES, Job, Judgement, Strikes
from hotswap_ray.core.errors import CheckerFailed, EngineUnavailable
from hotswap_ray.core.spec.golden import Check

HERE = "tests.unit.actors.judge.test_judge"
PARIS = Check(kind="contains", value="Paris")
LIMIT_S = 0.2


def loops(request, answer):
    while True:
        with suppress(Exception):
            time.monotonic()


def raises(request, answer):
    raise RuntimeError("broken")


def call(name):
    return Check(kind="callable", value=f"{HERE}:{name}")


def job(text, *checks):
    body = orjson.dumps({"choices": [{"index": 0, "text": text}]})
    return Job(checks or (PARIS,), "completions", {"prompt": "Capital of France?"}, body)


def stream(*chunks, end=b"data: [DONE]\n\n"):
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + end


def delta(index=0, **said):
    return {"id": "c", "choices": [{"index": index, "delta": said}]}


def message(**said):
    return orjson.dumps({"choices": [{"index": 0, "message": {"role": "assistant", **said}}]})


def tool(arguments):
    return {"id": "t", "type": "function", "function": {"name": "f", "arguments": arguments}}


def tool_delta(index, arguments):
    return delta(tool_calls=[{"index": index, **tool(arguments)}])


class TestAnswerText:
    @pytest.mark.parametrize(
        ("raw", "text"),
        [
            (message(content="hi"), "hi"),
            (message(content=None), ""),
            (message(content=[{"type": "text", "text": "a"}, {"type": "x"}]), "a"),
            (message(content=None, refusal="I cannot."), "I cannot."),
            (message(content=None, tool_calls=[tool('{"a": 1}')]), '{"a": 1}'),
            (message(content="", tool_calls=[tool("{}"), tool("1")]), "[{}, 1]"),
        ],
    )
    def test_a_chat_answer_is_its_message_or_the_arguments_of_its_tools(self, raw, text):
        assert answer_text("chat/completions", raw, streamed=False) == text

    def test_of_several_choices_the_first_counts(self):
        choices = [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}]
        raw = orjson.dumps({"choices": choices})
        assert answer_text("completions", raw, streamed=False) == "a"
        raw = stream(delta(1, content="b"), delta(0, content="a"), delta(0, content="c"))
        assert answer_text("chat/completions", raw, streamed=True) == "ac"

    def test_a_stream_is_put_together_whatever_surrounds_its_chunks(self):
        raw = (
            b": keep-alive\r\n\r\n"
            + stream({"choices": [{"index": 0, "text": "a\u2028"}]}, end=b"").replace(
                b"\n", b"\r\n"
            )
            + stream({"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]}, end=b"")
            + stream({"choices": [], "usage": {"completion_tokens": 2}})
        )
        assert answer_text("completions", raw, streamed=True) == "a\u2028b"

    def test_tool_calls_of_a_stream_are_put_together(self):
        raw = stream(
            tool_delta(0, '{"a"'),
            delta(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
        )
        assert answer_text("chat/completions", raw, streamed=True) == '{"a": 1}'

    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"no",
            b"{}",
            b"[]",
            b"7",
            b'{"choices": []}',
            b'{"choices": [7]}',
            b"\xff",
        ],
    )
    def test_what_is_no_answer_is_an_error_and_no_empty_answer(self, raw, streamed):
        with pytest.raises(CheckerFailed, match="the answer cannot be read"):
            answer_text("completions", b"data: " * streamed + raw, streamed=streamed)

    def test_a_stream_without_a_word_is_an_empty_answer(self):
        raw = stream({"choices": [{"index": 0, "finish_reason": "stop"}]})
        assert answer_text("completions", raw, streamed=True) == ""

    def test_a_stream_that_broke_off_is_no_answer(self):
        raw = stream(delta(content="Par"), {"error": {"message": "the model died"}}, end=b"")
        with pytest.raises(CheckerFailed, match="the model died"):
            answer_text("chat/completions", raw, streamed=True)


class TestJudge:
    def test_it_gives_a_verdict_for_each_answer_in_order(self):
        jobs = [job("Paris"), job("Rome"), job("Paris", PARIS, Check(kind="length", max_chars=1))]
        assert Judge(LIMIT_S).judge(jobs) == [
            Judgement(1.0),
            Judgement(0.0),
            Judgement(0.0, format_ok=False, wrong_form="5 characters, not 0 to 1"),
        ]

    def test_an_answer_that_cannot_be_read_or_a_check_that_raises_costs_only_itself(self):
        unread = Job((PARIS,), "completions", {}, b"<html>")
        unread, broken, good = Judge(LIMIT_S).judge(
            [unread, job("x", call("raises")), job("Paris")]
        )
        assert unread.quality is None
        assert unread.error.startswith("the answer cannot be read")
        assert broken == Judgement(None, f"callable '{HERE}:raises': RuntimeError: broken")
        assert good == Judgement(1.0)

    @pytest.mark.parametrize(
        "check",
        [
            Check(kind="regex", value="(a+)+$"),
            call("loops"),
            Check(kind="json_schema", json_schema={"pattern": "(a+)+$"}),
        ],
        ids=lambda check: check.kind,
    )
    def test_a_check_that_hangs_is_interrupted_and_the_others_are_judged(self, check):
        text = "a" * 60 + "b"
        if check.kind == "json_schema":
            text = orjson.dumps(text).decode()
        started = time.monotonic()
        first, hung, last = Judge(LIMIT_S).judge([job("Paris"), job(text, check), job("Rome")])
        assert time.monotonic() - started < 5
        assert (first, last) == (Judgement(1.0), Judgement(0.0))
        assert hung.quality is None
        assert hung.error.startswith(f"took longer than {LIMIT_S} s: {check.kind}")
        assert check.value in hung.error

    def test_checks_that_hang_again_and_again_rest_and_the_others_do_not(self):
        clock = Clock()
        judge = Judge(0.02, Strikes(clock))
        hangs = job("x", call("loops"))
        *tried, resting, good = judge.judge([hangs] * (STRIKES + 1) + [job("Paris")])
        assert all(judgement.error.startswith("took longer than") for judgement in tried)
        assert resting.error == f"rests, for it hung {STRIKES} times: callable '{HERE}:loops'"
        assert good == Judgement(1.0)
        clock.now += REST_S
        once, again = judge.judge([hangs] * 2)
        assert once.error.startswith("took longer than")
        assert again.error.startswith("rests")

    def test_checks_that_hang_now_and_then_go_on(self):
        slow = Check(kind="regex", value="(a+)+$")
        jobs = [job("a" * 60 + "b", slow), job("aa", slow)] * (STRIKES + 1)
        qualities = [judgement.quality for judgement in Judge(0.02).judge(jobs)]
        assert qualities == [None, 1.0] * (STRIKES + 1)

    async def test_without_a_process_of_its_own_the_verdicts_are_the_same(self):
        jobs = [job("Paris"), job("x", call("raises"))]
        assert await judge_here(jobs) == Judge(LIMIT_S).judge(jobs)

    def test_what_it_takes_and_gives_crosses_process_borders(self):
        sent = [job("Paris", PARIS, Check(kind="json_schema", json_schema={"type": "string"}))]
        assert pickle.loads(pickle.dumps(sent)) == sent
        assert pickle.loads(pickle.dumps(Judgement(0.5))) == Judgement(0.5)


class Clock:
    """Time that stands still."""

    now = 0.0

    def __call__(self):
        return self.now


class Transport:
    """Carries jobs to a real judge in this process; some answers hang it or end it.

    It is lost for `gone` calls after each time, as a process that starts again.
    """

    def __init__(self, gone=0):
        self.judge = Judge(LIMIT_S)
        self.gone = gone
        self.missing = 0
        self.hung = False
        self.kills = 0
        self.calls = []
        self.asked = asyncio.Event()

    async def reach(self, jobs):
        self.calls.append(len(jobs))
        self.asked.set()
        if self.missing:
            self.missing -= 1
            raise EngineUnavailable("the judge died")
        for one in jobs:
            if b"ends" in one.answer:
                self.missing = self.gone
                raise EngineUnavailable("the judge died")
            self.hung = self.hung or b"hangs" in one.answer
        if self.hung:
            await asyncio.Event().wait()
        return self.judge.judge(jobs)

    async def kill(self):
        self.kills += 1
        self.hung = False
        self.missing = self.gone

    def link(self, **limits):
        limits = {"spare_s": 0.05, "restart_s": 20} | limits
        return JudgeWatchdog(self.reach, self.kill, 0.01, **limits)


class TestJudgeWatchdog:
    async def test_answers_go_in_batches_of_bounded_size(self):
        transport = Transport()
        judgements = await transport.link().judge([job("Paris")] * (MOST_JOBS + 1))
        assert judgements == [Judgement(1.0)] * (MOST_JOBS + 1)
        assert transport.calls == [MOST_JOBS, 1]

    async def test_nothing_to_judge_asks_nobody(self):
        transport = Transport()
        assert await transport.link().judge([]) == []
        assert transport.calls == []

    @pytest.mark.parametrize(("text", "kills"), [("hangs", 2), ("ends", 0)])
    @pytest.mark.parametrize("gone", [0, 2])
    async def test_only_the_answer_that_takes_the_judge_down_goes_unjudged(self, text, kills, gone):
        transport = Transport(gone)
        link = transport.link()
        first, lost, last = await link.judge([job("Paris"), job(text), job("Rome")])
        assert (first, last) == (Judgement(1.0), Judgement(0.0))
        assert lost.quality is None
        assert "contains 'Paris'" in lost.error
        assert transport.kills == kills
        assert (link.unjudged, link.errors, link.last_error) == (1, 1, lost.error)

    async def test_checks_that_take_the_judge_down_again_and_again_rest(self):
        transport = Transport()
        judgements = await transport.link().judge(
            [job("ends")] * (STRIKES + 1) + [job("Paris", PARIS, PARIS)]
        )
        assert [judgement.quality for judgement in judgements] == [None] * (STRIKES + 1) + [1.0]
        assert [v.error.startswith("rests") for v in judgements] == [False] * STRIKES + [
            True,
            False,
        ]

    async def test_a_judge_that_stays_down_leaves_answers_unjudged_and_raises_nothing(self, caplog):
        transport = Transport()
        transport.missing = 10**6
        link = transport.link(restart_s=0.01)
        judgements = await link.judge([job("Paris"), job("Rome")])
        assert judgements == [Judgement(None, "the judge is down: the judge died")] * 2
        assert (link.unjudged, link.errors) == (2, 2)
        assert "2 answers went without a verdict" in caplog.text
        assert "the last: the judge is down: the judge died" in caplog.text

    async def test_a_judge_that_comes_back_judges_again(self):
        transport = Transport()
        transport.missing = 3
        link = transport.link()
        assert await link.judge([job("Paris"), job("Rome")]) == [Judgement(1.0), Judgement(0.0)]
        assert (link.unjudged, link.errors, link.last_error) == (0, 0, "")

    async def test_an_answer_no_check_could_tell_of_is_unjudged_but_no_error(self):
        link = Transport().link()
        (judgement,) = await link.judge([Job((), "completions", {}, job("Paris").answer)])
        assert judgement == Judgement(None)
        assert (link.unjudged, link.errors, link.last_error) == (1, 0, "")
        assert link.undecided == 1

    async def test_two_callers_take_turns_so_that_none_pays_for_the_other(self):
        transport = Transport()
        link = transport.link()
        (lost,), (good,) = await asyncio.gather(
            link.judge([job("hangs")]), link.judge([job("Paris")])
        )
        assert lost.quality is None
        assert good == Judgement(1.0)

    async def test_a_caller_that_is_cancelled_stops_and_the_next_one_is_served(self):
        transport = Transport()
        link = transport.link(spare_s=60)
        waiting = asyncio.create_task(link.judge([job("hangs")]))
        await transport.asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        transport.hung = False
        assert await link.judge([job("Paris")]) == [Judgement(1.0)]


@pytest.mark.parametrize(
    "check",
    [
        Check(kind="exact", value="42"),
        Check(kind="numeric", value="42"),
        Check(kind="length", max_chars=10),
        Check(kind="regex", value="^42$"),
    ],
    ids=lambda check: check.kind,
)
async def test_thinking_is_no_part_of_the_judged_text(check):
    said = "<think>17? no, 6 times 7.</think>\n\n42"
    whole = Job((check,), "chat/completions", {}, message(content=said))
    chunks = stream(*(delta(content=part) for part in (said[:9], said[9:])))
    streamed = Job((check,), "chat/completions", {}, chunks, streamed=True)
    apart = Job((check,), "chat/completions", {}, message(content="42", reasoning_content="17?"))
    assert [j.quality for j in await judge_here([whole, streamed, apart])] == [1, 1, 1]
