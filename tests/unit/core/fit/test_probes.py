"""What answers show of a model, and which of it refuses a swap."""

import pytest

from hotswap_ray.core.fit.capabilities import canonical
from hotswap_ray.core.fit.compatibility import check_compatibility
from hotswap_ray.core.fit.probe_report import ProbeReport, gaps, wanted
from hotswap_ray.core.fit.probes import PROBES, Probe, script
from hotswap_ray.core.spec.task import ModelSpec, TaskSpec


def model(*capabilities, **more):
    has = capabilities or ("chat", "completions")
    return ModelSpec(id="b", engine="simulated", capabilities=has, **more)


def task(*capabilities, **requirements):
    return TaskSpec(id="t", model="a", requirements={"capabilities": capabilities, **requirements})


def said(text=None, finish="stop", tokens_in=5, **message):
    """An answer in both shapes at once: a probe reads the one it asked for."""
    return {
        "choices": [
            {"text": text, "message": {"content": text, **message}, "finish_reason": finish}
        ],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": 1},
    }


def call(name="get_weather", arguments='{"city": "Paris"}'):
    return said(tool_calls=[{"function": {"name": name, "arguments": arguments}}])


def run(name, *answers, context_tokens=0, spec=None):
    """What a probe concludes from answers, and the bodies that it asked with."""
    left, asked = list(answers), []
    asking = script(name, spec or model(), context_tokens)
    question = next(asking)
    while True:
        asked.append(question.body)
        try:
            question = asking.send(left.pop(0))
        except StopIteration as ended:
            assert not left
            return ended.value[0], ended.value[1], asked


@pytest.mark.parametrize(
    ("name", "answers", "supported", "detail"),
    [
        ("chat", [said("six seven")], True, "answers a conversation"),
        ("chat", [said(reasoning_content="hm")], True, "answers"),
        ("chat", [said("six<|im_end|>")], False, "template does not fit: '<|im_end'"),
        ("chat", [said("")], None, "empty"),
        ("completions", [said("six")], True, "continues"),
        ("stop", [said("six seven eight"), said("six seven ")], True, "ends before"),
        ("stop", [said("six seven eight"), said("six seven eight")], False, "ignored"),
        ("stop", [said("six seven eight"), said("nine")], None, "differ"),
        ("stop", [said("six")], None, "too short"),
        ("tools", [call()], True, "calls a tool"),
        ("tools", [said("sunny"), call()], True, "only with tool_choice: required"),
        ("tools", [said("sunny"), said("rain")], False, "answers with text: 'sunny'"),
        ("tools", [call(arguments="{")], False, "calls a tool wrongly"),
        ("tools", [said(finish="length", reasoning_content="hm")], None, "still thought"),
        ("json", [said('{"capital": "Paris"}')], True, "JSON object"),
        ("json", [said("```json\n{}```")], False, "answers with text"),
        ("json", [said('{"capital": "Par', finish="length")], None, "not at an end"),
        ("reasoning", [said("six", reasoning_content="hm")], True, "apart"),
        ("reasoning", [said("<think>hm")], False, "within the answer"),
        ("tools", [said("<think>hm", finish="length")], None, "still thought"),
        ("json", [said('<think>hm</think>{"capital": "Paris"}')], True, "JSON object"),
        ("json", [said("<think>{}", finish="length")], None, "not at an end"),
        ("chat", [said("<think>hm")], True, "answers"),
        ("reasoning", [said("six")], False, "does not think"),
        ("stream_usage", [{"chunks": [{"usage": {"prompt_tokens": 3}}]}], False, "do not say"),
        ("stream_usage", [{"chunks": [{}]}], False, "do not say"),
    ],
)
def test_answers_show_what_a_model_can_do(name, answers, supported, detail):
    found = run(name, *answers)
    assert found[0] is supported
    assert detail in found[1]


def test_the_stop_sequence_comes_from_the_models_own_answer():
    _, _, (first, second) = run("stop", said("six seven eight"), said("six seven"))
    assert "stop" not in first
    assert second == {**first, "stop": ["eight"]}


def test_a_long_prompt_has_the_length_that_is_asked_for_whatever_a_token_is():
    # two tokens a word, three for the template
    answers = [said(tokens_in=5), said(tokens_in=133)]
    supported, detail, asked = run("context", *answers, said(tokens_in=1015), context_tokens=1024)
    assert (supported, detail) == (True, "reads 1015 tokens")
    words = asked[2]["prompt"].count("a")
    assert 2 * words + 3 == pytest.approx(1016, abs=3)


def test_a_prompt_that_is_cut_without_a_word_is_seen():
    answers = [said(tokens_in=5), said(tokens_in=133), said(tokens_in=512)]
    assert run("context", *answers, context_tokens=1024)[:2] == (False, "reads 512 tokens of 1016")


def test_a_length_that_nobody_counts_is_not_measured():
    answers = [said(tokens_in=0), said(tokens_in=0)]
    assert run("context", *answers, context_tokens=1024)[0] is None


def test_probed_is_what_is_declared_or_required_and_what_everybody_relies_on():
    assert wanted(model("chat", "poetry")) == ("stop", "stream_usage", "chat")
    spec, needs = model("chat", "json-mode"), task("function_calling", context_tokens=100)
    assert wanted(spec, needs) == ("stop", "stream_usage", "chat", "json", "tools", "context")


def report(**supported):
    probes = {name: Probe(name, value, "as seen") for name, value in supported.items()}
    return ProbeReport("b", 1, probes)


@pytest.mark.parametrize(
    ("seen", "spec", "needs", "severity", "refuses"),
    [
        ({"tools": False}, model(), task("tool_use"), "error", "both"),
        ({"context": False}, model(), task(context_tokens=100), "error", "both"),
        ({"chat": False}, model(), task("chat"), "error", "both"),
        ({"json": False}, model("structured_output"), task(), "warning", "strict"),
        ({"chat": False}, model(), task(), "note", "none"),
        ({"stop": False}, model(), task(), None, "none"),
        ({"tools": None}, model("tools"), task("tools"), None, "none"),
        ({"tools": True}, model("tools"), task("tools"), None, "none"),
    ],
)
def test_only_what_is_required_or_declared_and_was_seen_missing_refuses(
    seen, spec, needs, severity, refuses
):
    found = gaps(report(**seen), spec, needs)
    assert [gap.severity for gap in found.gaps] == ([severity] if severity else [])
    assert found.accepts(strict=True) == (refuses == "none")
    assert found.accepts(strict=False) == (refuses != "both")


def test_what_the_model_of_now_has_and_the_candidate_lacks_is_told():
    now = ProbeReport("a", 3, {"stop": Probe("stop", True), "json": Probe("json", None)})
    found = gaps(report(stop=False, json=False), model(), task(), now)
    assert [str(gap) for gap in found.gaps] == ["note: stop: needs stop, as a has, has as seen"]


def test_a_report_survives_the_store():
    kept = ProbeReport("b", 2, {"stop": Probe("stop", None, "too short")}, 512)
    assert ProbeReport.from_doc(kept.to_doc()) == kept


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_has_the_name_that_others_are_matched_to(name):
    assert canonical(name) == name


def test_a_capability_is_found_under_its_other_names():
    offered = model("chat", "Function-Calling", "structured_outputs", "image_input")
    needs = task("tools", "json_mode", "vision", "chat_completions")
    assert check_compatibility(needs, offered, None).gaps == ()
    assert check_compatibility(task("tools"), model("toolbox"), None).errors


def test_a_probe_sends_what_the_model_is_to_be_sent():
    spec = model(golden_params={"temperature": None, "max_tokens": None, "seed": 1})
    *_, asked = run("tools", said("no"), call(), spec=spec)
    assert all(body["seed"] == 1 for body in asked)
    assert all({"temperature", "max_tokens"}.isdisjoint(body) for body in asked)


def test_a_model_that_thinks_gets_room_for_it_where_its_answer_matters():
    spec = model("chat", "thinking", thinking_tokens=100)
    for name, answers, most in [
        ("tools", [call()], 164),
        ("stop", [said("six seven"), said("six ")], 108),
        ("stream_usage", [{"chunks": [{}]}], 8),
        ("context", [said("x", tokens_in=n) for n in (1, 65, 500)], 1),
    ]:
        *_, asked = run(name, *answers, spec=spec, context_tokens=512)
        assert {body["max_tokens"] for body in asked} == {most}
