"""EleutherAI's lm-eval with a real model: what is generated, and how likely given texts are."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.clients.asked import CAPITAL

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # all data are here
lm_eval = pytest.importorskip("lm_eval")

pytestmark = pytest.mark.clients
CAPITALS = {"Egypt": "Cairo", "France": "Paris", "Japan": "Tokyo"}
QUESTION = CAPITAL.replace("Egypt", "{{country}}")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The rows of the tasks, as lm-eval reads a data set of one's own."""
    path = tmp_path_factory.mktemp("data") / "capitals.jsonl"
    choices = list(CAPITALS.values())
    rows = [
        {"country": country, "capital": capital, "choices": choices, "text": f"{capital} is big."}
        for country, capital in CAPITALS.items()
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, product):
    """The model's tokenizer, by which lm-eval counts."""
    folder = tmp_path_factory.mktemp("tokenizer")
    program = Path(__file__).with_name("gemma_tokenizer.py")
    root = str(program.parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    subprocess.run([product.python, program, folder], env=environment, check=True, timeout=500)
    return folder


@pytest.fixture
def evaluate(product, data, tmp_path, monkeypatch):
    """Run one task; its metrics, and what was asked and said."""
    monkeypatch.setenv("OPENAI_API_KEY", product.key)
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def run(client, arguments, task, path="completions"):
        settings = {
            "model": "balanced",  # pinned: numbers of one model, never of its fallback
            "base_url": f"{product.url}/{path}",
            "num_concurrent": 2,
            "max_retries": 3,
        }
        whole = {
            "task": "capitals",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            **task,
        }
        done = lm_eval.simple_evaluate(
            model=client,
            model_args={**settings, **arguments},
            tasks=[whole],
            apply_chat_template=path == "chat/completions",
            bootstrap_iters=0,
        )
        return done["results"]["capitals"], done["samples"]["capitals"]

    return run


GENERATE = {
    "output_type": "generate_until",
    "doc_to_text": QUESTION,
    "doc_to_target": " {{capital}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "temperature": 0},
    "metric_list": [{"metric": "exact_match", "ignore_case": True}],
}
CHOOSE = {
    "output_type": "multiple_choice",
    "doc_to_text": QUESTION,
    "doc_to_target": "capital",
    "doc_to_choice": "choices",
    "metric_list": [{"metric": "acc"}],
}


def test_local_completions_generates(evaluate):
    metrics, samples = evaluate("local-completions", {"tokenizer_backend": None}, GENERATE)
    said = {sample["doc"]["country"]: sample["resps"][0][0] for sample in samples}
    assert said["Egypt"] == " Cairo"
    assert metrics["exact_match,none"] >= 0.25


def test_local_chat_completions_generates_and_takes_empty_answers(evaluate):
    arguments = {"tokenizer_backend": None}
    task = {**GENERATE, "generation_kwargs": {"until": [" "], "max_gen_toks": 8}}
    _, samples = evaluate("local-chat-completions", arguments, task, "chat/completions")
    assert [sample["resps"][0][0] for sample in samples] == [""] * len(CAPITALS)


def test_local_completions_chooses_by_likelihood(evaluate, tokenizer):
    arguments = {
        "tokenizer": str(tokenizer),
        "tokenizer_backend": "huggingface",
        "add_bos_token": True,  # it sends tokens, and they are taken as they are
        "max_length": 2047,
    }
    metrics, samples = evaluate("local-completions", arguments, CHOOSE)
    assert metrics["acc,none"] == 1
    # The likelihoods of the three capitals, and whether each is what the model itself would say.
    egypt = samples[0]["filtered_resps"]
    assert [is_greedy for _, is_greedy in egypt] == [True, False, False]
    assert max(egypt, key=lambda pair: float(pair[0])) == egypt[0]


def test_local_completions_rolls_over_a_text(evaluate, tokenizer):
    arguments = {
        "tokenizer": str(tokenizer),
        "tokenizer_backend": "huggingface",
        "max_length": 2047,
    }
    task = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "word_perplexity"}],
    }
    metrics, _ = evaluate("local-completions", arguments, task)
    assert metrics["word_perplexity,none"] > 1
