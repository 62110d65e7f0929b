"""Few-shot tasks with known answers: small enough for a 270M base model, and checkable.

They are data for the tour, the benchmarks and the tests: different models are best at
different ones, so there is something to learn and a reason to swap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hotswap_ray.core.spec.golden import Check, GoldenPrompt


@dataclass(frozen=True, slots=True)
class Item:
    """One question and its right answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class FewShotTask:
    """A kind of task: solved examples, then items to solve.

    Attributes:
        id: Name of the task.
        pattern: One line, with ``{question}``; the answer follows it.
        examples: Solved items that open every prompt.
        items: What is asked.
        max_tokens: Enough for every answer.
    """

    id: str
    pattern: str
    examples: tuple[Item, ...]
    items: tuple[Item, ...]
    max_tokens: int = 12

    def prompt(self, item: Item) -> str:
        """The text for ``/v1/completions``; stop at a new line.

        Example:
            >>> print(TASKS["capitals"].prompt(Item("Chile", "Santiago")).splitlines()[-1])
            The capital of Chile is
        """
        solved = [
            f"{self.pattern.format(question=example.question)} {example.answer}"
            for example in self.examples
        ]
        return "\n".join([*solved, self.pattern.format(question=item.question)])

    def body(self, item: Item, model: str = "auto") -> dict[str, object]:
        """A whole greedy request body for ``/v1/completions``."""
        return {
            "model": model,
            "prompt": self.prompt(item),
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stop": ["\n"],
        }

    def score(self, item: Item, answer: str) -> float:
        """1 if the answer is right, else 0; outer spaces and a final full stop do not count.

        Example:
            >>> TASKS["capitals"].score(Item("Chile", "Santiago"), " Santiago.")
            1.0
        """
        return float(_plain(answer) == _plain(item.answer))

    def golden(self, count: int = 5) -> tuple[GoldenPrompt, ...]:
        """The first ``count`` items as golden prompts for a ``TaskSpec``."""
        return tuple(
            GoldenPrompt(
                prompt=self.prompt(item),
                max_tokens=self.max_tokens,
                stop=("\n",),
                check=Check(kind="contains", value=item.answer),
            )
            for item in self.items[:count]
        )


def _plain(text: str) -> str:
    return text.strip().rstrip(".").rstrip()


def _items(lines: str) -> tuple[Item, ...]:
    """Items from ``question = answer`` separated by ``;``."""
    pairs = (part.split("=") for part in " ".join(lines.split()).strip(" ;").split(";"))
    return tuple(Item(question.strip(), answer.strip()) for question, answer in pairs)


_WORDS = """garden river window orange candle pocket silver bridge flower hammer
planet butter mirror basket engine forest pencil rocket turtle violin"""

TASKS: dict[str, FewShotTask] = {
    task.id: task
    for task in (
        FewShotTask(
            "capitals",
            "The capital of {question} is",
            _items("Spain = Madrid; Canada = Ottawa; Kenya = Nairobi"),
            _items("""
                France = Paris; Italy = Rome; Germany = Berlin; Japan = Tokyo; Egypt = Cairo;
                Russia = Moscow; China = Beijing; Greece = Athens; Austria = Vienna;
                Poland = Warsaw; Portugal = Lisbon; Ireland = Dublin; Norway = Oslo;
                Sweden = Stockholm; Finland = Helsinki; Denmark = Copenhagen; Cuba = Havana;
                Peru = Lima; Argentina = Buenos Aires; Thailand = Bangkok; Hungary = Budapest;
                Iran = Tehran; Iraq = Baghdad; Belgium = Brussels
            """),
        ),
        FewShotTask(
            "translate_fr",
            "English: {question} French:",
            _items("sun = soleil; water = eau; friend = ami; red = rouge"),
            _items("""
                house = maison; cat = chat; dog = chien; book = livre; table = table; night = nuit;
                bread = pain; milk = lait; school = école; car = voiture; tree = arbre; sea = mer;
                white = blanc; black = noir; green = vert; king = roi; city = ville; street = rue;
                door = porte; mother = mère; father = père; head = tête; hand = main; day = jour
            """),
        ),
        FewShotTask(
            "uppercase",
            "{question} ->",
            _items("apple = APPLE; winter = WINTER; yellow = YELLOW"),
            tuple(Item(word, word.upper()) for word in _WORDS.split()),
        ),
        FewShotTask(
            "echo",
            "Say {question}:",
            _items("apple = apple; winter = winter; yellow = yellow"),
            tuple(Item(word, word) for word in _WORDS.split()),
        ),
    )
}

_ITEMS = {task.prompt(item): (task, item) for task in TASKS.values() for item in task.items}


def check_answer(request: Mapping[str, Any], answer: str) -> float | None:
    """A checker for live traffic: right or wrong, for prompts that this file knows.

    Args:
        request: Body of a completion.
        answer: What the model said.

    Returns:
        1 or 0; ``None`` for any other prompt, which it cannot judge.

    Example:
        >>> paris = TASKS["capitals"].prompt(TASKS["capitals"].items[0])
        >>> check_answer({"prompt": paris}, " Paris"), check_answer({"prompt": "Hello"}, "Hi")
        (1.0, None)
    """
    entry = _ITEMS.get(str(request.get("prompt")))
    return None if entry is None else entry[0].score(entry[1], answer)
