"""What a configuration file may say, and what a wrong one is told."""

from __future__ import annotations

import pickle
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hotswap_ray import config
from hotswap_ray.config import yaml as config_yaml
from hotswap_ray.core.errors import ConfigError
from hotswap_ray.core.spec.task import Preferences

GOOD = """\
models:
  small: {engine: simulated}
  large:
    engine: simulated
    resources:
      num_cpus: 2
tasks:
  sum:
    model: small
    fallback: large
  chat:
    model: large
"""


def problems(text: str, **env: str) -> list[str]:
    """The lines that this text is refused with."""
    with pytest.raises(ConfigError) as caught:
        config.loads(text, name="f.yaml", env=env)
    return str(caught.value).splitlines()


def test_a_small_file_is_enough_and_keys_are_ids():
    loaded = config.loads(GOOD, env={})
    assert loaded.models["small"].id == "small"
    assert loaded.tasks["chat"].id == "chat"
    assert loaded.default_task == "sum"
    assert loaded.server.host == "127.0.0.1"


def test_a_configuration_cannot_be_changed_and_travels_whole():
    loaded = config.loads(GOOD + "server: {admin_token: s3cret}\n", env={})
    with pytest.raises(ValidationError):
        loaded.default_task = "chat"
    with pytest.raises(ValidationError):
        loaded.server.port = 1
    copy = pickle.loads(pickle.dumps(loaded))
    assert copy == loaded
    assert copy.server.admin_token.get_secret_value() == "s3cret"


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("models:", "modles:", "f.yaml:1: modles: unknown key; did you mean 'models'?"),
        (
            "    engine:",
            "    engin:",
            "f.yaml:4: models.large.engin: unknown key; did you mean 'engine'?",
        ),
        (
            "num_cpus",
            "num_cpu",
            "f.yaml:6: models.large.resources.num_cpu: unknown key; did you mean 'num_cpus'?",
        ),
        (
            "    fallback",
            "    falback",
            "f.yaml:10: tasks.sum.falback: unknown key; did you mean 'fallback'?",
        ),
    ],
)
def test_an_unknown_key_gets_its_line_and_the_closest_name(before, after, line):
    assert line in problems(GOOD.replace(before, after, 1))


@pytest.mark.parametrize(
    ("addition", "line"),
    [
        ("server: {prot: 1}", "server.prot: unknown key; did you mean 'port'?"),
        ("swap: {bake: 1}", "swap.bake: unknown key; did you mean 'bake_s'?"),
        ("learning: {flushs: 1}", "learning.flushs: unknown key; did you mean 'flush_s'?"),
        ("store: {ulr: x}", "store.ulr: unknown key; did you mean 'url'?"),
        ("cluster: {adress: x}", "cluster.adress: unknown key; did you mean 'address'?"),
        (
            "zzz: 1",
            "zzz: unknown key; known: autoswap, cluster, default_task, learning, models,",
        ),
    ],
)
def test_every_section_refuses_unknown_keys(addition, line):
    (found,) = problems(GOOD + addition)
    assert found.startswith(f"f.yaml:13: {line}")


def test_a_key_deep_in_a_list_is_found():
    text = GOOD + "    golden:\n      - prompt: hi\n        check:\n          vlaue: x\n"
    assert problems(text)[0] == (
        "f.yaml:16: tasks.chat.golden[0].check.vlaue: unknown key; did you mean 'value'?"
    )


def test_options_are_checked_by_the_engine():
    text = GOOD.replace("{engine: simulated}", "\n    engine: simulated\n    options: {sed: 1}")
    assert problems(text) == [
        "f.yaml:4: models.small.options.sed: unknown key; did you mean 'seed'?"
    ]


def test_a_checker_that_cannot_be_found_gets_its_line():
    text = GOOD + (
        "    checks:\n      - kind: callable\n        value: nowhere_at_all:check\n"
        "    golden:\n      - prompt: hi\n        check: {kind: callable, value: nobody}\n"
    )
    one, other = problems(text)
    assert one.startswith("f.yaml:15: tasks.chat.checks[0].value: checker 'nowhere_at_all:check'")
    assert other.startswith("f.yaml:18: tasks.chat.golden[0].check.value: no checker 'nobody'")


def test_a_schema_that_is_none_gets_its_line():
    check = "      - {kind: json_schema, json_schema: {type: objekt}}\n"
    (line,) = problems(GOOD + "    checks:\n" + check)
    assert line.startswith("f.yaml:14: tasks.chat.checks[0]: not a JSON schema: 'objekt' is not")


@pytest.mark.parametrize(
    ("addition", "text"),
    [
        ("server: {port: 70000}", "server.port: should be less than or equal to 65535"),
        ("server: {port: eighty}", "server.port: should be a valid integer"),
        ("swap: {bake_s: -1}", "swap.bake_s: should be greater than or equal to 0"),
        ("swap: {bake_s: .inf}", "swap.bake_s: should be less than or equal to"),
        ("swap: {bake_s: .nan}", "swap.bake_s: should be"),
        ("swap: {strategy: fast}", "swap.strategy: should be 'auto', 'overlap', 'sleep' or"),
        ("server: 8000", "server: expected a mapping"),
        ("server: {first_byte_timeout_s: 700}", "server: first_byte_timeout_s 700 exceeds"),
        ("store: {url: mysql://x}", "store.url: expected sqlite:///PATH or postgresql"),
        ("default_task: smu", "default_task: no task 'smu'; did you mean 'sum'?"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_bound(addition, text):
    (found,) = problems(GOOD + addition)
    assert found.startswith(f"f.yaml:13: {text}")


def test_every_number_of_the_configuration_is_bounded():
    for option in config.describe_options():
        number = option.type.startswith(("integer", "number"))
        assert " to " in option.bounds or not number, option.path
        assert option.description, option.path


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (
            "model: small",
            "model: smal",
            "9: tasks.sum.model: no model 'smal'; did you mean 'small'?",
        ),
        ("fallback: large", "fallback: big", "10: tasks.sum.fallback: no model 'big'"),
        (
            "fallback: large",
            "fallback: small",
            "10: tasks.sum.fallback: is the task's own model; name another",
        ),
        (
            "    engine: simulated",
            "    engine: simulatd",
            "4: models.large.engine: unknown engine 'simulatd'; did you mean 'simulated'?",
        ),
        ("    engine: simulated", "    engine: os.path:x", "4: models.large.engine: cannot be imp"),
        (
            "    engine: simulated",
            "    source: x",
            "3: models.large.engine: missing; it is required",
        ),
        ("  chat:", "  c h:", "11: tasks.c h.id: a name is 1 to 63 letters, digits"),
        ("  chat:", "  sum:", "11: tasks.sum: duplicate key, first on line 8"),
        (
            "num_cpus: 2",
            "num_cpus: 2\n      num_cpus: 3",
            "7: models.large.resources.num_cpus: dup",
        ),
        ("  chat:\n", "  chat:\n    id: talk\n", "12: tasks.chat.id: the key is the id; leave it"),
        ("  large:", "  auto:", "3: models.auto: in requests, auto means that the arbiter"),
    ],
)
def test_names_that_do_not_fit_together_are_refused(before, after, line):
    assert any(
        found.startswith(f"f.yaml:{line}") for found in problems(GOOD.replace(before, after))
    )


def test_all_problems_come_at_once_in_the_order_of_the_file():
    text = GOOD.replace("engine: simulated}", "engin: x}").replace("model: small", "modle: small")
    found = problems(text + "server: {port: 0}\nswap: {bake_s: '${BAKE}'}\n")
    assert [line.split(": ")[0] for line in found] == [
        "f.yaml:2",
        "f.yaml:2",
        "f.yaml:8",
        "f.yaml:9",
        "f.yaml:13",
        "f.yaml:14",
    ]


@pytest.mark.parametrize("weight", ["0.5", "-1", "1000", ".nan", "much"])
def test_a_weight_on_energy_is_refused_because_nothing_measures_it(weight):
    (line,) = problems(GOOD + f"    preferences:\n      energy: {weight}\n")
    told = "tasks.chat.preferences.energy: nothing measures energy yet; leave it 0"
    assert line == f"f.yaml:14: {told}"


@pytest.mark.parametrize("weight", ["0", "0.0", "'${ENERGY:-0}'"])
def test_no_weight_on_energy_may_be_written_down(weight):
    loaded = config.loads(GOOD + f"    preferences: {{energy: {weight}, cost: 1}}\n", env={})
    assert loaded.tasks["chat"].preferences == Preferences(cost=1)


def test_references_are_checked_when_built_in_python_too():
    with pytest.raises(ValidationError, match=r"tasks\.t\.model: no model 'b'"):
        config.Config(models={"a": {"engine": "simulated"}}, tasks={"t": {"model": "b"}})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "f.yaml: expected a mapping"),
        ("# nothing\n", "f.yaml: expected a mapping"),
        ("- 1\n", "f.yaml:1: expected a mapping"),
        ("models: {}\ntasks: {}\n", "f.yaml:1: models: "),
        ("a: [1,\nb: }", "f.yaml:2: not valid YAML: "),
        ("a: 1\n\tb: 2", "f.yaml:2: not valid YAML: "),
        ("a: 1\nb: \x01", "f.yaml:2: not valid YAML: "),
        ("a: 1\n---\nb: 2", "f.yaml:2: not valid YAML: "),
        ("a: !!python/object/apply:os.system [x]", "f.yaml:1: "),
        ("a: &a [*a]", "f.yaml:1: not valid YAML: too many aliases"),
        ("? [a]\n: 1", "f.yaml:1: not valid YAML: a key must be text"),
        ("a: *b", "f.yaml:1: not valid YAML: found undefined alias"),
    ],
)
def test_what_is_not_a_configuration_is_refused_with_a_line(text, line):
    assert problems(text)[0].startswith(line)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *((word, True) for word in ("on", "On", "ON", "yes", "Yes", "true", "True")),
        *((word, False) for word in ("off", "Off", "OFF", "no", "No", "false", "False")),
        *((word, word) for word in ("y", "n", "Y", "N", "advise", "oN", "tRUE")),
        *((word, None) for word in ("", "~", "null", "Null", "NULL")),
        ("'on'", "on"),
        ("!!str on", "on"),
        *(("1_000", 1000), ("0x1f", 31), ("0b11", 3), ("+1", 1), ("-0", 0)),
        *(("010", 8), ("08", "08"), ("0o10", "0o10")),  # octal as in YAML 1.1
        *(("1:30", 90), ("1:30.5", 90.5), ("1:75", "1:75")),  # base 60, as YAML 1.1 has it
        *((".5", 0.5), ("1.", 1.0), ("1.5e+3", 1500.0), ("-.inf", float("-inf"))),
        *((word, word) for word in ("1e3", "1.5e3", "-.5", "-_", "._")),
        ("2026-01-31", date(2026, 1, 31)),
        ("!!set {a, b}", {"a": None, "b": None}),
        ("!any {a: 1}", {"a": 1}),
    ],
)
def test_a_plain_value_is_what_yaml_1_1_says(written, value):
    document = config_yaml.parse(f"a: {written}\n", {})
    assert document.problems == []
    assert document.data == {"a": value}
    assert type(document.data["a"]) is type(value)


def test_a_key_is_the_text_that_was_written():
    keys = ["on", "off", "010", "8", "~", "true", "True", "1e3", "2026-01-01"]
    text = "".join(f"{key}: 1\n" for key in keys)
    document = config_yaml.parse(text, {})
    assert list(document.data) == keys
    assert document.problems == []


@pytest.mark.parametrize("mode", ["on", "off", "advise", "'on'", "'off'"])
def test_the_mode_of_auto_swap_may_be_written_with_and_without_quotes(mode):
    loaded = config.loads(GOOD + f"autoswap: {{mode: {mode}}}\n", env={})
    assert loaded.autoswap.mode == mode.strip("'")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("2026-13-45", "timestamp"),
        ("0b_", "int"),
        ("1" * 5000, "int"),
        (":".join(["1", *["00"] * 300, "00.0"]), "float"),
        ("!!int ''", "int"),
        ("!!bool maybe", "bool"),
        ("!!timestamp soon", "timestamp"),
    ],
)
def test_what_only_looks_like_a_number_or_a_date_is_refused_with_its_line(value, kind):
    told = f"f.yaml:14: server.port: is no valid {kind}; put it in quotes if it is text"
    assert problems(f"{GOOD}server:\n  port: {value}\n") == [told]


def test_a_file_that_is_nested_too_deep_is_refused():
    assert problems("a: " + "[" * 100_000) == ["f.yaml: not valid YAML: nested too deep"]


def test_every_duplicate_is_named_with_its_path_and_a_merged_key_has_a_line():
    text = "a: {b: 1, b: 2}\nc: &c\n  d: 1\ne:\n  <<: *c\n  f: 1\n  f: 2\n"
    document = config_yaml.parse(text, {})
    assert [problem.render("f") for problem in document.problems] == [
        "f:1: a.b: duplicate key, first on line 1",
        "f:7: e.f: duplicate key, first on line 6",
    ]
    assert [document.line(("e", key)) for key in ("d", "f")] == [3, 7]


def test_a_small_file_cannot_become_a_huge_one():
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert "too many aliases" in problems("\n".join(rows))[0]


def test_a_missing_file_and_one_that_is_not_text_are_refused_by_name(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        config.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match=r"binary\.yaml: not UTF-8 text"):
        config.load(tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path)


def test_variables_are_replaced_and_a_default_stands_in_for_one_that_is_empty():
    server = "server: {port: '${PORT:-8123}', host: '${A}.${B:-b}', admin_token: t}\n"
    text = GOOD + server + "cluster: {address: $${X}}"
    loaded = config.loads(text.replace("$${X}", '"$${X}"'), env={"A": "a", "PORT": ""})
    assert loaded.server.port == 8123
    assert loaded.server.host == "a.b"
    assert loaded.cluster.address == "${X}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "my.host"])
def test_an_endpoint_that_others_can_reach_needs_an_admin_token(host):
    with pytest.raises(ConfigError, match=r"<config>:\d+: server: .*set admin_token"):
        config.loads(GOOD + f"server: {{host: '{host}'}}")
    text = GOOD + f"server: {{host: '{host}', admin_token: '${{TOKEN:-}}'}}"
    with pytest.raises(ConfigError, match="set admin_token"):
        config.loads(text, env={})
    assert config.loads(text, env={"TOKEN": "secret"}).server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_an_endpoint_on_this_machine_may_be_open(host):
    assert config.loads(GOOD + f"server: {{host: '{host}'}}").server.admin_token is None


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("HOTSWAP_TEST_PORT", "8124")
    assert config.loads(GOOD + "server:\n  port: ${HOTSWAP_TEST_PORT}").server.port == 8124


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("${PORT}", "server.port: environment variable PORT is not set; set it or write"),
        ("${8PORT}", "server.port: malformed ${8PORT}; write ${NAME} or ${NAME:-default}"),
        ("${BAD}", "server.port: should be a valid integer"),
    ],
)
def test_a_bad_variable_is_refused_with_its_line(value, text):
    (found,) = problems(f"{GOOD}server:\n  port: {value}\n", BAD="x")
    assert found.startswith(f"f.yaml:14: {text}")


def test_an_unquoted_variable_in_brackets_gets_a_hint():
    (found,) = problems("a: [${A}]", A="a")
    assert found.endswith("quote ${...} inside [] or {}")


def test_a_secret_of_digits_stays_text_and_an_empty_one_is_none():
    text = GOOD + "server:\n  admin_token: ${A:-}\n  api_keys:\n    - ${B:-}\n    - ${C:-}\n"
    loaded = config.loads(text, env={"B": "0123"})
    assert loaded.server.admin_token is None
    assert [key.get_secret_value() for key in loaded.server.api_keys] == ["0123"]


def test_secrets_are_in_no_text_of_the_configuration():
    text = GOOD + (
        "server:\n  admin_token: s3cret\n  api_keys: [s3cret]\n"
        "store:\n  url: postgresql+psycopg://u:s3cret@h/n\n"
    )
    text = text.replace("    resources:", "    options: {answer: s3cret}\n    resources:")
    loaded = config.loads(text, env={})
    assert "s3cret" not in repr(loaded)
    assert "s3cret" not in str(loaded)


def test_secrets_are_in_no_error():
    text = GOOD + (
        "server:\n  admin_token: {x: '${S}'}\n  api_keys: '${S}'\n  port: ${S}\n"
        "store:\n  url: mysql://u:${S}@h/n\ncluster:\n  ha_proxy: ${S}\n"
    )
    found = problems(text, S="s3cret")
    assert len(found) == 5
    assert "s3cret" not in "".join(found)


def test_a_relative_database_is_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.StoreConfig(url="sqlite:///a.db").url == f"sqlite:///{tmp_path}/a.db"
    assert config.StoreConfig().url == (
        f"sqlite:///{tmp_path}/.local/state/hotswap_ray/hotswap.sqlite"
    )
    assert config.StoreConfig(url="sqlite:///:memory:").url == "sqlite:///:memory:"


def test_an_alias_repeats_a_value_and_a_merge_key_may_be_overridden():
    huge = "  huge:\n    engine: simulated\n    resources: {<<: *big, num_cpus: 9}\ntasks:"
    text = GOOD.replace("resources:", "resources: &big").replace("tasks:", huge)
    text = text.replace("num_cpus: 2", "num_cpus: 2\n      replicas: 3")
    resources = config.loads(text, env={}).models["huge"].resources
    assert (resources.num_cpus, resources.replicas) == (9, 3)


@given(st.text(max_size=200))
def test_no_text_is_answered_with_anything_but_a_config_error(text):
    document = config_yaml.parse(text, {})
    assert document.problems or document.data is None or document.line(()) >= 1
    with pytest.raises(ConfigError):
        config.loads(text, env={})
