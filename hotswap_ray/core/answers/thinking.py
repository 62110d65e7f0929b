"""What a reasoning model thinks before it answers, where its server leaves that in the text."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def without_thinking(text: str) -> str:
    """The answer alone, which is what checks are about.

    Args:
        text: What a model said. Thinking comes first, as reasoning models write it; its
            beginning may stand in the prompt's template, and so not in the text.

    Returns:
        The text after the thinking; empty while the thinking has no end. A text that thinks
        nowhere, or that names the marks later on, comes back as it is.

    Example:
        >>> without_thinking("<think>17? no, 6 times 7.</think>42")
        '42'
        >>> without_thinking("6 times 7 is 42.</think>42"), without_thinking("<think>17?")
        ('42', '')
        >>> without_thinking("write <think> and </think> around it")
        'write <think> and </think> around it'
    """
    if text.lstrip().startswith(OPEN):
        return text.partition(CLOSE)[2].lstrip()
    thinking, end, answer = text.partition(CLOSE)
    return answer.lstrip() if end and OPEN not in thinking else text
