"""Gemma's tokenizer as Hugging Face's libraries read it, made of the product's own weights.

lm-eval counts a prompt's tokens itself before it asks for their logprobs, and must count as the
model does. It runs with the product's Python, which can read GGUF::

    python tests/clients/gemma_tokenizer.py FOLDER
"""

import json
import sys
from pathlib import Path

from gguf import GGUFReader

from hotswap_ray.engines.weights.gguf import resolve_source

CONTROL = 3  # llama.cpp's type of tokens such as <bos>
SPACE = "\u2581"  # what stands for a space in the vocabulary


def read_vocabulary(path):
    """Tokens in order, their scores, and their types."""
    fields = GGUFReader(path).fields
    tokens = [bytes(field).decode() for field in _values(fields, "tokens")]
    scores = [float(part[0]) for part in _values(fields, "scores")]
    kinds = [int(part[0]) for part in _values(fields, "token_type")]
    return tokens, scores, kinds


def _values(fields, name):
    field = fields[f"tokenizer.ggml.{name}"]
    return [field.parts[at] for at in field.data]


def merges(tokens, scores):
    """Which two pieces become one, the likeliest first, as SentencePiece does by its scores."""
    ids = {token: number for number, token in enumerate(tokens)}
    found = []
    for token, score in zip(tokens, scores, strict=True):
        halves = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [pair for pair in halves if pair[0] in ids and pair[1] in ids]
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(score, pair) for pair in pairs]
    found.sort(key=lambda entry: -entry[0])
    return [list(pair) for _, pair in found]


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    tokens, scores, kinds = read_vocabulary(resolve_source("gemma3-270m"))
    special = [number for number, kind in enumerate(kinds) if kind == CONTROL]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    model = {
        "type": "BPE",
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": merges(tokens, scores),
    }
    bos = tokens.index("<bos>")
    whole = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": tokens[number], "special": True, **plain}
            for number in special
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<bos>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [bos], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
