"""Golden sets: what a file may hold, what is refused and where, and what a prompt is known by."""

import json

import pytest

from hotswap_ray.config.golden_set import (
    given_prompts,
    golden_key,
    golden_prompts,
    parse_golden_set,
    read_golden_set,
)
from hotswap_ray.core.errors import ConfigError, InvalidRequest
from hotswap_ray.core.spec.golden import Check, GoldenPrompt
from hotswap_ray.core.spec.task import TaskSpec

SUMS = """
- prompt: "2+2="
  check: {kind: numeric, value: "4"}
  weight: 2
- messages: [{role: user, content: "print ${HOME}"}]
  stop: ["."]
"""


def test_a_yaml_list_is_read_and_its_dollars_are_left_alone():
    first, second = parse_golden_set(SUMS, "sums.yaml")

    assert (first.prompt, first.check.kind, first.weight) == ("2+2=", "numeric", 2)
    assert second.messages == ({"role": "user", "content": "print ${HOME}"},)
    assert second.stop == (".",)


def test_json_lines_give_the_same_as_yaml():
    prompts = parse_golden_set(SUMS, "sums.yaml")
    lines = "\n\n".join(prompt.model_dump_json(exclude_defaults=True) for prompt in prompts)

    assert parse_golden_set(lines + "\n", "sums.jsonl") == prompts


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("g.yaml", "- prompt: a\n- prompt: b\n  wieght: 2\n", "g.yaml:3: [1].wieght: unknown key"),
        ("g.yaml", "- prompt: a\n- max_tokens: 2\n", "g.yaml:2: [1]: give either prompt or"),
        ("g.yaml", "- prompt: a\n  check: {kind: numeric, value: x}\n", "g.yaml:2: [0].check: "),
        ("g.yaml", "- prompt: a\n  weight: 0\n", "g.yaml:2: [0].weight: should be greater"),
        ("g.yaml", "prompts: []\n", "g.yaml:1: expected a list"),
        ("g.yaml", "", "g.yaml: expected a list"),
        ("g.yaml", "- {prompt: a\n", "not valid YAML"),
        ("g.jsonl", '{"prompt": "a"}\n\n{"prompt": \n', "g.jsonl:3: [1]: not valid JSON"),
        ("g.jsonl", '{"prompt": "a"}\n{"prompt": "b", "n": 1}\n', "g.jsonl:2: [1].n: unknown key"),
        ("g.jsonl", "7\n", "g.jsonl:1: [0]: expected a mapping"),
        ("g.jsonl", "\n", "g.jsonl: expected a list"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(name, text, told):
    with pytest.raises(ConfigError) as caught:
        parse_golden_set(text, name)

    assert told in str(caught.value)


def test_every_problem_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_golden_set('{"prompt": 1}\nnope\n{}\n', "g.jsonl")

    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [
        "g.jsonl:1",
        "g.jsonl:2",
        "g.jsonl:3",
    ]


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        read_golden_set(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_golden_set(tmp_path / "bytes.yaml")


def test_a_task_has_its_own_prompts_and_those_of_its_file_each_once(tmp_path):
    path = tmp_path / "more.jsonl"
    path.write_text(json.dumps({"prompt": "b"}) + "\n" + json.dumps({"prompt": "a"}) + "\n")
    task = TaskSpec(id="t", model="m", golden=[{"prompt": "a"}], golden_file=str(path))

    assert [prompt.prompt for prompt in golden_prompts(task).values()] == ["a", "b"]


def test_a_prompt_keeps_its_key_until_what_is_asked_changes():
    prompt = GoldenPrompt(prompt="2+2=", check=Check(value="4"))
    others = [
        prompt.model_copy(update={"prompt": "2+3="}),
        prompt.model_copy(update={"check": Check(value="5")}),
        prompt.model_copy(update={"max_tokens": 5}),
    ]

    assert len(golden_key("sums", prompt)) == 16
    assert golden_key("sums", prompt) == golden_key("sums", prompt.model_copy(update={"weight": 2}))
    assert golden_key("sums", prompt) not in {golden_key("sums", other) for other in others}


def test_prompts_that_a_caller_sends_are_checked():
    assert [p.prompt for p in given_prompts("t", [{"prompt": "a"}]).values()] == ["a"]
    with pytest.raises(InvalidRequest, match=r"prompts\[1\]\.wait: unknown key"):
        given_prompts("t", [{"prompt": "a"}, {"prompt": "b", "wait": 1}])
    with pytest.raises(InvalidRequest, match="empty"):
        given_prompts("t", [])
