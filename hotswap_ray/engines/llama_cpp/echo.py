"""A prompt as part of its answer: OpenAI's ``echo``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from hotswap_ray.engines.body.prompts import Prompt
from hotswap_ray.engines.llama_cpp.logprobs import LegacyLogprobs, first_entry
from hotswap_ray.engines.llama_cpp.request import LlamaRequest
from hotswap_ray.engines.llama_cpp.scoring import Ask, score_tokens
from hotswap_ray.engines.llama_cpp.server import LlamaServer


@dataclass
class EchoedPrompt:
    """A prompt that was read.

    Attributes:
        tokens: As the model reads it.
        text: What a client is told of it.
        first: The bytes of the first token.
        whole: Any token that is text, not part of a character.
        ends: Tokens at which runs of the scoring end.
        entries: What the model thought of each token, once it was asked.
    """

    tokens: list[int]
    text: str
    first: bytes
    whole: int
    ends: set[int]
    entries: list[dict[str, Any]] = field(default_factory=list)

    async def score(self, ask: Ask, top: int) -> None:
        """Ask the model how likely it thinks each token.

        Args:
            ask: Sends a body to llama.cpp's completions and gives its chunks.
            top: Likeliest tokens to tell of each place.
        """
        scored = await score_tokens(ask, self.tokens, top, whole=self.whole, ends=self.ends)
        self.entries = [first_entry(self.tokens[0], self.first), *scored]

    def chunk(
        self, model: str, request: LlamaRequest, index: int, legacy: LegacyLogprobs
    ) -> dict[str, Any]:
        """The prompt as the first chunk of a choice, or as all of it; the id is the request's."""
        logprobs = None
        if self.entries:
            logprobs = legacy.add(self.entries)
            # The sign that begins a text is none of it.
            if not self.text.startswith(self.first.decode(errors="replace")):
                skipped = len(self.first.decode(errors="replace"))
                logprobs["text_offset"] = [max(0, at - skipped) for at in logprobs["text_offset"]]
        legacy.offset = len(self.text)
        is_all = request.body["max_tokens"] == 0
        choice = {
            "index": index,
            "text": self.text,
            "logprobs": logprobs,
            "finish_reason": "length" if is_all else None,
        }
        return {
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
        }


async def read_prompt(server: LlamaServer, prompt: Prompt) -> EchoedPrompt:
    """Read a prompt: its tokens if it is text, its text if it is tokens."""
    whole = (await server.tokenize("a"))[-1][0]
    if isinstance(prompt, str):
        tokens = await server.tokenize(prompt)
        return EchoedPrompt(
            [token for token, _ in tokens], prompt, tokens[0][1], whole, server.ends
        )
    first = await server.text_of(prompt[:1])
    return EchoedPrompt(
        list(prompt), await server.text_of(prompt), first.encode(), whole, server.ends
    )
