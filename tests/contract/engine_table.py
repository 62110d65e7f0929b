"""What each engine does of what OpenAI's clients send, found out by asking it.

``python -m tests.contract.engine_table`` asks every engine that this machine has and rewrites the
table of ``docs/clients.md``; `test_engine_table.py` holds that the page says what they do. Columns
of engines that are not here (vLLM, say) stay as they are.
"""

import asyncio
import json
import sys
from importlib.util import find_spec
from pathlib import Path

from hotswap_ray.core.errors import ContextExceeded, InvalidRequest
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.answers import assemble
from hotswap_ray.engines.base import load_engine_class
from tests.contract.engine_server import serving

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
HOW = "run: python -m tests.contract.engine_table"
BEGIN, END = "<!-- engines: begin -->\n", "<!-- engines: end -->"

PROMPT = "The capital of France is"
USER = {"role": "user", "content": "Which city is the capital of France?"}
AS_JSON = [{"role": "user", "content": "Give the capital of France as JSON."}]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
OTHER = {"type": "function", "function": {"name": "clock"}}
NAMED = {"type": "function", "function": {"name": "clock"}}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY, "strict": True}}
FEATURES = {}
TOOL_TEMPLATE = """\
{%- if tools %}<|im_start|>system
Functions:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call one by <tool_call>
{"name": <name>, "arguments": <object>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def feature(name):
    """Names a question: it asks and returns whether what was asked for was done."""

    def add(question):
        FEATURES[name] = question
        return question

    return add


class Asker:
    """Asks one engine, whole or streamed."""

    def __init__(self, engine, streamed):
        self._engine = engine
        self._streamed = streamed

    async def chat(self, **body):
        return await self.ask("chat/completions", {"messages": [USER], **body})

    async def complete(self, **body):
        return await self.ask("completions", {"prompt": PROMPT, **body})

    async def ask(self, endpoint, body):
        body = {"max_tokens": 6, "temperature": 0, **body}
        if not self._streamed:
            return await self._engine.generate(endpoint, body)
        body["stream"] = True
        return assemble(endpoint, [chunk async for chunk in self._engine.stream(endpoint, body)])


def said(answer):
    choice = answer["choices"][0]
    return choice.get("text") or (choice.get("message") or {}).get("content") or ""


def calls(answer):
    found = answer["choices"][0]["message"].get("tool_calls") or []
    return [call["function"]["name"] for call in found]


def tokens_in(answer):
    return answer["usage"]["prompt_tokens"]


@feature("null for absent")
async def _(asker):
    names = ("n", "stop", "seed", "tools", "response_format", "logprobs", "stream_options", "user")
    answer = await asker.chat(**dict.fromkeys(names), max_tokens=None, max_completion_tokens=3)
    return answer["usage"]["completion_tokens"] <= 3


@feature("`max_completion_tokens`")
async def _(asker):
    answer = await asker.chat(max_tokens=5, max_completion_tokens=1)
    return answer["usage"]["completion_tokens"] == 1


@feature("`n`")
async def _(asker):
    answers = await asker.chat(n=2), await asker.complete(n=2)
    return all(len(answer["choices"]) == 2 for answer in answers)


@feature("`stop`: a string, a list of five")
async def _(asker):
    text = said(await asker.complete(max_tokens=4))
    stop = text.split()[-1]
    answers = [await asker.complete(stop=one) for one in (stop, [stop, "#1", "#2", "#3", "#4"])]
    return all(stop not in said(answer) for answer in answers)


@feature("`seed` (one request at a time)")
async def _(asker):
    first, second = [said(await asker.complete(seed=7, temperature=1)) for _ in range(2)]
    return first == second


@feature("`frequency_penalty`, `presence_penalty`")
async def _(asker):
    body = {"prompt": "a, a, a, a, a, a, a, a, a, a, a,", "max_tokens": 8}
    penalties = {"frequency_penalty": 2, "presence_penalty": 2}
    return said(await asker.complete(**body)) != said(await asker.complete(**body, **penalties))


@feature("`logit_bias`")
async def _(asker):
    try:
        told = await asker.chat(logprobs=True, max_tokens=1)
        token = told["choices"][0]["logprobs"]["content"][0]["id"]
    except (InvalidRequest, KeyError):
        token = 5  # it tells no ids; then it has no tokens either
    plain = said(await asker.chat(max_tokens=2))
    return said(await asker.chat(max_tokens=2, logit_bias={str(token): -100})) != plain


@feature("`logprobs`, `top_logprobs` of a chat")
async def _(asker):
    answer = await asker.chat(logprobs=True, top_logprobs=1)
    told = answer["choices"][0]["logprobs"]["content"]
    return all(len(one["top_logprobs"]) == 1 for one in told)


@feature("`logprobs` of a text completion")
async def _(asker):
    told = (await asker.complete(logprobs=1))["choices"][0]["logprobs"]
    return told.keys() == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}


@feature("`echo`")
async def _(asker):
    return said(await asker.complete(echo=True)).startswith(PROMPT)


@feature("`echo` with `logprobs` of the prompt, `max_tokens: 0`")
async def _(asker):
    (choice,) = (await asker.complete(echo=True, logprobs=1, max_tokens=0))["choices"]
    first, *others = choice["logprobs"]["token_logprobs"]
    return choice["text"] == PROMPT and first is None and all(one <= 0 for one in others)


@feature("several prompts")
async def _(asker):
    return len((await asker.complete(prompt=["One", "Two"]))["choices"]) == 2


@feature("token arrays as prompts")
async def _(asker):
    one = await asker.complete(prompt=[2, 818])
    two = await asker.complete(prompt=[[2, 818], [2, 9]])
    return len(one["choices"]) == 1 and len(two["choices"]) == 2


@feature("`suffix`")
async def _(asker):
    return await asker.complete(suffix="end") and False


@feature("`best_of`")
async def _(asker):
    return await asker.complete(best_of=2) and False


@feature("`tools`, `tool_choice: auto`")
async def _(asker):
    plain, offered = await asker.chat(), await asker.chat(tools=[TOOL])
    return bool(calls(offered)) or tokens_in(offered) > tokens_in(plain)


@feature("`tool_choice: none`")
async def _(asker):
    return not calls(await asker.chat(tools=[TOOL], tool_choice="none"))


@feature("`tool_choice: required`, `parallel_tool_calls: false`")
async def _(asker):
    body = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 60}
    return len(calls(await asker.chat(tools=[TOOL, OTHER], **body))) == 1


@feature("`tool_choice` by name")
async def _(asker):
    body = {"tool_choice": NAMED, "max_tokens": 60}
    return calls(await asker.chat(tools=[TOOL, OTHER], **body)) == ["clock"]


@feature("`functions`, `function_call`")
async def _(asker):
    body = {"function_call": {"name": "weather"}, "max_tokens": 60}
    answer = await asker.chat(functions=[TOOL["function"]], **body)
    return "function_call" in answer["choices"][0]["message"]


@feature("results of tools in the conversation")
async def _(asker):
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "1", "content": "It rains."}
    plain, told = await asker.chat(), await asker.chat(messages=[USER, call, result])
    return tokens_in(told) > tokens_in(plain)


@feature("`response_format: json_object`")
async def _(asker):
    asked = {"response_format": {"type": "json_object"}, "max_tokens": 100}
    answer = await asker.chat(messages=AS_JSON, **asked)
    return said(answer).lstrip().startswith("{")


@feature("`response_format: json_schema`, strict or not")
async def _(asker):
    loose = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}
    asked = {"messages": AS_JSON, "max_tokens": 80}
    answers = [await asker.chat(response_format=one, **asked) for one in (SCHEMA, loose)]
    try:
        return all(json.loads(said(answer))["city"] in ("Oslo", "Rome") for answer in answers)
    except ValueError:
        return False


@feature("`response_format: json_schema` of a text completion")
async def _(asker):
    return "city" in said(await asker.complete(response_format=SCHEMA, max_tokens=60))


@feature("role `developer`")
async def _(asker):
    told = await asker.chat(messages=[{"role": "developer", "content": "Be short."}, USER])
    return tokens_in(told) > tokens_in(await asker.chat())


@feature("last message of the assistant is gone on with")
async def _(asker):
    begun = {"role": "assistant", "content": "It is the city of"}
    return tokens_in(await asker.chat(messages=[USER, begun])) > tokens_in(await asker.chat())


@feature("content in parts of text")
async def _(asker):
    parts = [{"type": "text", "text": "Which city is"}, {"type": "text", "text": "it?"}]
    return bool(said(await asker.chat(messages=[{"role": "user", "content": parts}])))


@feature("images")
async def _(asker):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    return bool(said(await asker.chat(messages=[{"role": "user", "content": [part]}])))


@feature("sound, files")
async def _(asker):
    part = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    return bool(said(await asker.chat(messages=[{"role": "user", "content": [part]}])))


@feature("`reasoning_effort`")
async def _(asker):
    low = await asker.chat(reasoning_effort="low")
    return tokens_in(low) != tokens_in(await asker.chat())


@feature("`metadata`, `user`, `store`, `service_tier`")
async def _(asker):
    return await asker.chat(metadata={"a": "b"}, user="u", store=True, service_tier="auto") is None


@feature("a prompt over the context is `context_length_exceeded`")
async def _(asker):
    try:
        await asker.complete(prompt="word " * 4000)
    except ContextExceeded:
        return True
    return False


WRONG = (
    *({"max_tokens": one} for one in (True, 0, 1.5, 10**30, -1)),
    *({"temperature": 2.5}, {"top_p": 2}, {"n": 0}, {"stop": 5}, {"seed": "x"}),
    *({"stream_options": {"include_usage": "yes"}}, {"messages": [{"role": "frog"}]}),
    *({"tool_choice": "required"}, {"response_format": {"type": "poem"}}),
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "wrong"}}}},
)


@feature("values that are wrong")
async def _(asker):
    taken = []
    for body in WRONG:
        try:
            await asker.chat(**body)
        except InvalidRequest:
            continue
        taken.append(body)
    if not taken:
        raise InvalidRequest("all of them")
    return False


async def column(engine):
    """What one engine does: by feature yes, refused or ignored."""
    await engine.start()
    try:
        found = {}
        for name, question in FEATURES.items():
            seen = {await verdict(question, Asker(engine, streamed)) for streamed in (False, True)}
            found[name] = seen.pop() if len(seen) == 1 else "differs when streamed"
        return found
    finally:
        await engine.stop()


async def verdict(question, asker):
    try:
        return "yes" if await question(asker) else "ignored"
    except InvalidRequest:
        return "refused"


def engine(name, spec):
    return load_engine_class(name)(ModelSpec(id="m", engine=name, context_tokens=1024, **spec))


EVERYTHING = ("chat", "completions", "tools", "json", "logprobs", "n", "vision")
GEMMA = {"source": "gemma3-270m", "resources": {"num_cpus": 1}}
WITH_TOOLS = {"capabilities": EVERYTHING[:3], "options": {"chat_template": TOOL_TEMPLATE}}
COLUMNS = {
    "`simulated`": lambda: engine("simulated", {}),
    "`simulated`, all declared": lambda: engine("simulated", {"capabilities": EVERYTHING}),
    "`llama_cpp`, base model": lambda: engine("llama_cpp", GEMMA),
    "`llama_cpp`, template with tools": lambda: engine("llama_cpp", {**GEMMA, **WITH_TOOLS}),
}


def ask_all():
    """The columns that this machine can find out."""
    found = {name: asyncio.run(column(make())) for name, make in COLUMNS.items()}
    with serving() as serve:
        url = serve(engine("simulated", {"capabilities": EVERYTHING}), models=("m",))
        remote = engine("openai", {"source": "m", "options": {"base_url": url}})
        found["`openai`, before the second"] = asyncio.run(column(remote))
    if find_spec("vllm"):
        from tests.vllm.gemma_hf import gemma_270m_hf

        found["`vllm`"] = asyncio.run(column(engine("vllm", {"source": str(gemma_270m_hf())})))
    return found


def read_page():
    """The columns of the page."""
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    if not rows:
        return {}
    return {
        name: {row[0]: row[place] for row in rows[2:]}
        for place, name in enumerate(rows[0])
        if place
    }


def markdown(columns):
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(one.get(name, "?") for one in columns.values())] for name in FEATURES]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main():
    columns = read_page() | ask_all()
    text = PAGE.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}{markdown(columns)}\n{END}{after}")
    sys.stdout.write(markdown(columns) + "\n")


if __name__ == "__main__":
    main()
