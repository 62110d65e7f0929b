"""Names of capabilities, matched by meaning: people and servers call the same thing differently."""

from __future__ import annotations

from collections.abc import Iterable

SYNONYMS: dict[str, tuple[str, ...]] = {
    "chat": ("chat_completion", "chat_completions", "chat_template", "conversation"),
    "completions": ("completion", "text_completion", "text_completions"),
    "tools": (
        *("tool", "tool_call", "tool_calls", "tool_calling", "tool_use"),
        *("function", "functions", "function_call", "function_calls", "function_calling"),
    ),
    "json": (
        *("json_mode", "json_object", "json_output", "json_schema"),
        *("structured_output", "structured_outputs", "structured_generation"),
    ),
    "vision": ("image", "images", "image_input", "image_understanding", "multimodal_image"),
    "embeddings": ("embedding", "embed", "text_embedding", "text_embeddings"),
    "reasoning": ("thinking", "reasoning_output", "reasoning_content", "chain_of_thought"),
    "logprobs": ("logprob", "log_probabilities", "token_logprobs"),
    "n": ("n_choices", "several_answers", "several_choices", "multiple_choices"),
    "stop": ("stop_sequence", "stop_sequences", "stop_words", "stop_strings"),
    "stream_usage": ("streaming_usage", "stream_options", "usage_in_stream"),
}
"""The name used here, and synonyms of it. A name that is not in the table matches only itself."""

_MEANING = {synonym: name for name, synonyms in SYNONYMS.items() for synonym in synonyms}


def canonical(name: str) -> str:
    """The name used here for a capability; itself where none is known.

    Example:
        >>> canonical("Function-Calling"), canonical("json mode"), canonical("poetry")
        ('tools', 'json', 'poetry')
    """
    plain = "_".join(name.lower().replace("-", " ").replace("_", " ").split())
    return _MEANING.get(plain, plain)


def canonicals(names: Iterable[str]) -> frozenset[str]:
    """``canonical`` of each.

    Example:
        >>> sorted(canonicals(("tool_use", "function_calling", "chat")))
        ['chat', 'tools']
    """
    return frozenset(map(canonical, names))
