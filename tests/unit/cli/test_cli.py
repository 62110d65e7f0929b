"""The command line without Ray: usage, exit codes, laziness, and its page of documentation."""

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command
from typer.testing import CliRunner

import hotswap_ray
from hotswap_ray.cli import app, output
from hotswap_ray.cli.show import model_rows, task_rows

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "cli.md"
GOOD = "models: {a: {engine: simulated}}\ntasks: {chat: {model: a}}\n"


def commands(group=None, path=()):
    """Every command with the words that call it."""
    for name, command in sorted((group or get_command(app)).commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


def hotswap(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from hotswap_ray.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class FakeArbiter:
    """Records what the command line asks for."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, method):
        def call(*args, **kwargs):
            self.calls.append((method, args, kwargs))
            return {
                "swap_id": "s", "task": "chat", "from_model": "a", "to_model": "b",
                "phase": "succeeded", "error": "", "seconds": {"loading": 1.0}, "model": "m",
                "state": "ready", "generation": 1, "memory_bytes": 2**20,
            }  # fmt: skip

        return call


@pytest.fixture
def arbiter(monkeypatch):
    fake = FakeArbiter()

    @contextmanager
    def connected(address, namespace):
        yield fake

    monkeypatch.setattr(output, "arbiter", connected)
    return fake


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_public_names_come_late_and_neither_ray_nor_vllm_with_them():
    code = (
        "import sys, hotswap_ray; from hotswap_ray import Arbiter, Criteria, HotswapError; "
        "import hotswap_ray.cli; "
        "print([name for name in ('ray', 'vllm', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert sorted(hotswap_ray.__all__) == hotswap_ray.__all__
    assert all(getattr(hotswap_ray, name) for name in hotswap_ray.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Arbitr'"):
        _ = hotswap_ray.Arbitr


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_can_print_json_and_explains_itself(words):
    command = COMMANDS[words]
    options = [name for option in command.params for name in option.opts]
    assert "--json" in options
    assert command.help
    assert all(parameter.help for parameter in command.params if parameter.name != "help")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_and_option_stands_in_the_page(words):
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    title = f"`hotswap {' '.join(words)}"
    section = next((text for text in sections if re.match(re.escape(title) + r"\b", text)), "")
    assert section, f"docs/cli.md has no section {title}"
    common = next(text for text in sections if text.startswith("Options of every command"))
    for parameter in COMMANDS[words].params:
        if parameter.param_type_name == "argument":
            assert parameter.metavar in section.partition("\n")[0]
            continue
        for name in parameter.opts:
            assert f"`{name}" in section + common, f"{title} says nothing of {name}"


def test_the_page_names_no_command_that_is_gone():
    titles = re.findall(r"^## `hotswap ([a-z -]+?)(?: [A-Z\[].*)?`", PAGE.read_text(), re.MULTILINE)
    assert sorted(titles) == sorted(" ".join(words) for words in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nope",),
        ("swap", "chat"),
        ("swap", "chat", "b", "--strategy", "magic"),
        ("swap", "chat", "b", "--bake-s", "-1"),
        ("models",),
        ("models", "load"),
        ("rollout", "promote"),
        ("status", "--jsn"),
        ("serve",),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(arbiter, arguments):
    assert invoke(*arguments).exit_code == 2
    assert arbiter.calls == []


def test_validate_says_ok_or_every_problem_with_its_line(tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD)
    bad.write_text(GOOD + "tasks_: {}\nserver: {port: 0}\n")
    fine, told = hotswap("validate", str(good)), hotswap("validate", str(good), "--json")
    assert (fine.returncode, fine.stderr) == (0, "")
    assert fine.stdout == f"{good}: ok, 1 models, 1 tasks\n"
    assert json.loads(told.stdout) == {"file": str(good), "models": ["a"], "tasks": ["chat"]}
    refused = hotswap("validate", str(bad))
    assert (refused.returncode, refused.stdout) == (1, "")
    first, second = refused.stderr.splitlines()
    assert first.startswith(f"hotswap: invalid_config: {bad}:3: tasks_: unknown key")
    assert second.startswith(f"hotswap: invalid_config: {bad}:4: server.port: ")


def test_a_swap_passes_its_options_on(arbiter):
    done = invoke(
        "swap", "chat", "b", "--strategy", "sleep", "--bake-s", "5", "--warn", "--no-wait",
        "--swap-id", "s", "--until", "end", "--canary", "5,25", "--if-match", "e",
    )  # fmt: skip
    assert (done.exit_code, done.stdout) == (0, "s: chat a -> b succeeded after 1.00 s\n")
    options = {
        "wait": False, "swap_id": "s", "bake_s": 5.0, "strategy": "sleep",
        "compatibility": "warn", "canary": "5,25", "until": "end", "requested_by": "cli",
        "if_match": "e", "dry_run": False,
    }  # fmt: skip
    assert arbiter.calls == [("force_swap", ("chat", "b"), options)]


def test_without_options_the_configuration_decides(arbiter):
    invoke("swap", "chat", "b")
    ((_, _, options),) = arbiter.calls
    assert (options["bake_s"], options["strategy"], options["compatibility"]) == (None, None, None)
    assert options["wait"] is True


def test_a_signal_is_sent_and_its_end_waited_for(arbiter):
    for action, method in (
        ("promote", "promote"),
        ("abort", "abort"),
        ("rollback", "rollback_swap"),
    ):
        arbiter.calls.clear()
        assert invoke("rollout", action, "s").exit_code == 0
        assert [name for name, _, _ in arbiter.calls] == [method, "wait"]


def test_a_rollback_goes_to_the_model_that_is_named_or_lists_them(arbiter, monkeypatch):
    assert invoke("rollback", "chat", "--to", "small", "--no-wait").exit_code == 0
    assert invoke("rollback", "chat").exit_code == 0
    assert [kwargs for _, _, kwargs in arbiter.calls] == [
        {"wait": False, "to": "small", "if_match": None},
        {"wait": True, "to": None, "if_match": None},
    ]
    row = {"generation": 1, "served_at_s": None, "serves": False, "state": "ready", "warm": True}
    rows = [
        {**row, "model": "large", "serves": True, "served_at_s": 0.5},
        {**row, "model": "small"},
        {**row, "model": "tiny", "state": "unloaded", "warm": False},
    ]
    arbiter.generations = lambda task: rows
    told = invoke("rollback", "chat", "--list").stdout
    for words in ("1970-01-01 00:00:00.500", "nothing, it serves", "one commit", "a load"):
        assert words in told
    assert json.loads(invoke("rollback", "chat", "--list", "--json").stdout) == rows


def test_a_file_gives_its_models_all_checked_before_the_first_is_loaded(arbiter, tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("models: {x: {engine: simulated}, y: {engine: simulated}}")
    assert invoke("models", "load", str(path)).exit_code == 0
    assert [args for _, args, _ in arbiter.calls] == [
        ("x", {"engine": "simulated"}),
        ("y", {"engine": "simulated"}),
    ]
    path.write_text("{id: z, engine: simulated}")
    assert json.loads(invoke("models", "load", str(path), "--json").stdout)["state"] == "ready"
    assert arbiter.calls[-1][1] == ("z", {"id": "z", "engine": "simulated"})


@pytest.mark.parametrize(
    "text", ["models: {x: {engine: simulated}, y: {engin: a}}", "[1]", "models: [", "models: {}"]
)
def test_a_file_that_is_wrong_loads_nothing(arbiter, tmp_path, text):
    path = tmp_path / "m.yaml"
    path.write_text(text)
    done = invoke("models", "load", str(path))
    assert type(done.exception).__name__ == "ConfigError"
    assert arbiter.calls == []


def test_rows_show_what_is_missing_as_nothing():
    status = {
        "tasks": {
            "chat": {"model": "a", "generation": None, "held": False, "fallback": None},
            "sums": {
                "model": "b",
                "generation": 2,
                "held": False,
                "fallback": None,
                "autoswap": "on",
            },
        },
        "open_swaps": [{"task": "chat", "to_model": "b", "phase": "loading"}],
        "open_ab_tests": [{"task": "sums", "phase": "running"}],
    }
    seen = {("sums", "b"): {"count": 3, "success_rate": 1.0, "quality": float("nan")}}
    chat, sums = task_rows(status, seen)
    assert chat == ("chat", "a", "not loaded", None, None, None, None, None, "b: loading", None)
    assert sums[:6] == ("sums", "b", 2, 3, "1.000", None)
    assert sums[-2:] == ("A/B test: running", "on")
    row = {"model": "a", "engine": "e", "state": "unloaded", "generation": None,
           "memory_bytes": 0, "load_s": None, "serves": []}  # fmt: skip
    assert model_rows([row]) == [("a", "e", "unloaded", None, None, None, "")]


def test_replay_prints_the_shares_and_names_the_line_of_a_bad_file(tmp_path):
    good = tmp_path / "results.csv"
    rows = [
        f"t,p{n},{model},{quality}" for n in range(4) for model, quality in (("a", 1), ("b", 0))
    ]
    good.write_text("task_type,prompt_id,model,quality\n" + "\n".join(rows))
    bad = tmp_path / "bad.csv"
    bad.write_text("task_type,prompt_id,model,quality\nt,p1,a,high\n")

    answer = invoke("replay", str(good), "--per-task", "40", "--seeds", "1", "--json")
    refused = hotswap("replay", str(bad))

    report = json.loads(answer.stdout)
    assert (report["random"]["mean"], report["oracle"]["mean"]) == (0.5, 1.0)
    assert report["achieved"]["mean"] > 0.8
    assert refused.returncode == 1
    assert "bad.csv, line 2" in refused.stderr


@pytest.mark.parametrize("mode", ["off", "advise", "on", "config"])
def test_a_mode_is_passed_on_and_what_it_came_to_is_said(arbiter, monkeypatch, mode):
    said = {"task": "chat", "mode": "off" if mode == "config" else mode}
    monkeypatch.setattr(arbiter, "set_autoswap", lambda *asked: said | {"asked": asked})
    assert invoke("autoswap", "chat", mode).stdout == f"auto-swap of chat is {said['mode']}\n"
    told = json.loads(invoke("autoswap", "chat", mode, "--json").stdout)
    assert told == said | {"asked": ["chat", mode]}
    assert invoke("autoswap", "chat", "maybe").exit_code == 2


DECISION = {
    "id": 2, "task": "chat", "at_s": 5.0, "action": "promote", "reason": "better", "model": "b",
    "swap_id": "auto-1", "sentence": "chat: b replaces a.", "more": 3, "inputs": {},
}  # fmt: skip
NO_DECISION = {**DECISION, "action": "stay", "model": None, "swap_id": None, "more": None}


def test_decisions_show_what_is_missing_as_nothing(arbiter, monkeypatch):
    asked = []

    def decisions(task, limit):
        asked.append((task, limit))
        return pd.DataFrame([DECISION, NO_DECISION])

    monkeypatch.setattr(arbiter, "decisions", decisions)
    shown = invoke("decisions", "--task", "chat", "--limit", "7").stdout
    assert "01-01 00:00:05 │ promote │ auto-1 │ chat: b replaces a." in shown
    assert "01-01 00:00:05 │ stay    │ -      │" in shown
    assert "nan" not in shown
    rows = json.loads(invoke("decisions", "--json").stdout)
    assert rows == [DECISION, NO_DECISION]
    assert asked == [("chat", 7), (None, 20)]
    monkeypatch.setattr(arbiter, "decisions", lambda *asked: pd.DataFrame([]))
    assert json.loads(invoke("decisions", "--json").stdout) == []


def test_an_explanation_is_a_sentence_then_what_it_rests_on(arbiter, monkeypatch):
    found = {
        "kind": "task", "subject": "chat", "sentence": "chat: a stays.",
        "what_would_change": "more traffic.", "decisions": [NO_DECISION],
        "inputs": {"models": [
            {"model": "a", "belief": 0.5, "count": 30.2, "success_rate": None},
            {"model": "b", "belief": 0.7, "count": 9.0, "success_rate": 1.0,
             "comparisons": 9, "difference": 0.2, "log_e": 1.5},
        ]},
    }  # fmt: skip
    monkeypatch.setattr(arbiter, "explain", lambda subject: {**found, "subject": subject})
    first, second, *rest = invoke("explain", "chat").stdout.splitlines()
    assert (first, second) == ("chat: a stays.", "What would change it: more traffic.")
    shown = "\n".join(rest)
    assert "│ a     │ 0.500    │ 30       │ -       │ -           │" in shown
    assert "│ b     │ 0.700    │ 9        │ 1.000   │ 9           │ 0.200" in shown
    assert "│ stay   │ -    │" in shown
    assert json.loads(invoke("explain", "chat", "--json").stdout) == found
    # Of a request: nothing would change it, and it rests on no table.
    found = {"kind": "request", "sentence": "b answered.", "inputs": {}, "decisions": []}
    assert invoke("explain", "r1").stdout == "b answered.\n"
