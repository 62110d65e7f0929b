"""What a reasoning model thinks before it answers, where its server leaves that in the text."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"
MARKS = {OPEN: CLOSE, "<thinking>": "</thinking>", "[THINK]": "[/THINK]"}
"""Marks before and after; the first pair is what nearly all models write."""


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
        >>> without_thinking("<think>17?</think> <think>no</think>42 </think>")
        '42 </think>'
        >>> without_thinking("write <think> and </think> around it")
        'write <think> and </think> around it'
    """
    rest = text.lstrip()
    if rest.startswith(tuple(MARKS)):
        while mark := next((mark for mark in MARKS if rest.startswith(mark)), None):
            rest = rest.partition(MARKS[mark])[2].lstrip()
        return rest
    thinking, close, answer = text.partition(CLOSE)
    return answer.lstrip() if close and OPEN not in thinking else text
