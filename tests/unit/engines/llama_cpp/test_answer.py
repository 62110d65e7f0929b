"""Chunks of llama.cpp become what the client asked for."""

import pytest

from hotswap_ray.core.errors import EngineError, EngineUnavailable
from hotswap_ray.engines.answers import assemble
from hotswap_ray.engines.llama_cpp.answer import ChunkShaper
from hotswap_ray.engines.llama_cpp.forced import ForcedCall
from hotswap_ray.engines.llama_cpp.request import LlamaRequest
from hotswap_ray.engines.llama_cpp.scoring import score_tokens

TOOLS = ({"function": {"name": "f"}}, {"function": {"name": "g"}})


def entry(token, text, logprob=-1.0):
    own = {"id": token, "token": text, "bytes": list(text.encode()), "logprob": logprob}
    return {**own, "top_logprobs": [{**own, "id": 9, "token": "z", "bytes": [122]}]}


def chunk(finish=None, logprobs=None, **said):
    choice = {"index": 0, "finish_reason": finish, **said}
    if logprobs is not None:
        choice["logprobs"] = {"content": logprobs}
    return {"id": "chatcmpl-abc", "choices": [choice]}


def shaped(request, *chunks):
    shaper = ChunkShaper(request)
    return [one for one in map(shaper.shape, chunks) if one is not None]


def test_a_text_completion_has_an_id_of_its_own_kind():
    (one,) = shaped(LlamaRequest("completions", {}), chunk("stop", text="a"))
    assert one["id"] == "cmpl-abc"


def test_logprobs_of_text_completions_have_the_old_shape_and_offsets_go_on():
    request = LlamaRequest("completions", {}, top_logprobs=1)
    chunks = shaped(
        request,
        chunk(text="é", logprobs=[entry(1, "é")]),
        chunk(text="b", logprobs=[entry(2, "b", -2.0)]),
        chunk("stop", text=""),
    )
    whole = assemble("completions", [*chunks, {"choices": []}])
    assert whole["choices"][0]["logprobs"] == {
        "tokens": ["é", "b"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": [{"z": -1.0, "é": -1.0}, {"z": -2.0, "b": -2.0}],
        "text_offset": [0, 1],
    }


def test_a_chat_has_as_many_likeliest_tokens_as_asked():
    request = LlamaRequest("chat/completions", {}, top_logprobs=0)
    (one,) = shaped(request, chunk(delta={"content": "a"}, logprobs=[entry(1, "a")]))
    assert one["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def call_of(request, *texts, finish="stop"):
    said = [chunk(delta={"role": "assistant", "content": None})]
    said += [chunk(delta={"content": text}) for text in texts]
    return shaped(request, *said, chunk(finish, delta={}))


def test_a_forced_call_is_told_once_it_is_whole_and_no_text_is():
    request = LlamaRequest("chat/completions", {}, forced=ForcedCall(TOOLS))
    first, last = call_of(request, '{"name": "g", ', '"arguments": {}}')
    assert first["choices"][0]["delta"] == {"role": "assistant"}
    (call,) = last["choices"][0]["delta"]["tool_calls"]
    assert call["function"] == {"name": "g", "arguments": "{}"}
    assert call["id"] == "call-abc-0"
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def test_a_forced_call_for_a_client_with_functions_is_a_function_call():
    request = LlamaRequest("chat/completions", {}, forced=ForcedCall(TOOLS[:1]), has_functions=True)
    _, last = call_of(request, "{}")
    assert last["choices"][0]["delta"] == {"function_call": {"name": "f", "arguments": "{}"}}
    assert last["choices"][0]["finish_reason"] == "function_call"


def test_a_forced_call_that_was_cut_off_ends_for_length():
    request = LlamaRequest("chat/completions", {}, forced=ForcedCall(TOOLS))
    _, last = call_of(request, '{"name"', finish="length")
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["choices"][0]["delta"] == {}


class Scripted:
    """llama.cpp as far as scoring sees it: tells the tokens of a script, refuses to force some."""

    def __init__(self, never=(), broken=False):
        self.never = set(never)
        self.broken = broken
        self.asked = []

    async def __call__(self, body):
        self.asked.append(body)
        if self.broken:
            raise EngineUnavailable("gone")
        if "grammar" in body:
            wanted = [int(one.strip("<[]>")) for one in body["grammar"].split()[2:]]
        else:
            wanted = [body["logit_bias"][0][0]]
        for token in wanted:
            if "grammar" in body and token in self.never:
                raise EngineError("no token fits the grammar")
            yield {"choices": [{"text": str(token), "logprobs": {"content": [
                entry(token, str(token), -float(len(body["prompt"])))
            ]}}]}  # fmt: skip


async def test_each_token_of_a_prompt_but_the_first_is_scored_in_one_run():
    llama = Scripted()
    entries = await score_tokens(llama, [5, 6, 7], 1, whole=1, ends=set())
    assert [one["id"] for one in entries] == [6, 7]
    assert len(llama.asked) == 1


async def test_a_token_that_no_grammar_lets_pass_is_forced_alone_and_remembered():
    llama, ends = Scripted(never=[6]), set()
    entries = await score_tokens(llama, [5, 7, 6, 8], 1, whole=1, ends=ends)
    assert [one["id"] for one in entries] == [7, 6, 8]
    assert ends == {6}
    asked = len(llama.asked)
    await score_tokens(llama, [5, 6, 8], 1, whole=1, ends=ends)
    assert all("<[6]>" not in body.get("grammar", "") for body in llama.asked[asked:])


class Lying(Scripted):
    """Takes another token than the one that was forced."""

    async def __call__(self, body):
        async for one in super().__call__(body):
            one["choices"][0]["logprobs"]["content"][0]["id"] = 1000
            yield one


async def test_a_number_for_another_token_is_never_taken():
    with pytest.raises(EngineError, match="does not tell how likely token 6"):
        await score_tokens(Lying(), [5, 6], 1, whole=1, ends=set())


async def test_an_engine_that_is_gone_is_no_token_to_go_around():
    llama = Scripted(broken=True)
    with pytest.raises(EngineUnavailable):
        await score_tokens(llama, [5, 6], 1, whole=1, ends=set())
    assert len(llama.asked) == 1
