"""Items that come close together leave together, and none waits for one that has not come."""

import asyncio

import pytest

from hotswap_ray.actors.replica.joined import Joined
from tests.worlds.until import until


class Source:
    """Gives what it is told to, when it is told to."""

    def __init__(self, *steps):
        self.steps = steps
        self.given = 0
        self.gates = [asyncio.Event() for _ in steps]
        self.closed = asyncio.Event()
        self.tasks = set()

    def open(self, *which):
        """Let these steps come; all of them where none is named."""
        for index in which or range(len(self.gates)):
            self.gates[index].set()
        return self

    async def __call__(self):
        try:
            for step, gate in zip(self.steps, self.gates, strict=True):
                self.tasks.add(asyncio.current_task())
                await gate.wait()
                self.given += 1
                if isinstance(step, BaseException):
                    raise step
                yield step
        finally:
            await asyncio.sleep(0)  # closing takes a moment
            self.tasks.add(asyncio.current_task())
            self.closed.set()


def joined(source, interval_s=60.0):
    """Letters pass, lower case ones do not matter, and digits are dropped."""
    return Joined(source(), lambda x: (None if x.isdigit() else x, x.isupper()), interval_s)


async def rest(reader):
    """All that is still taken, a list a message."""
    found = []
    while not reader.ended:
        found.append(await reader.take())
    return found


async def test_the_first_that_matters_leaves_at_once_and_takes_along_what_came_before():
    source = Source("a", "b", "C", "D").open(0, 1, 2)
    async with joined(source) as reader:
        assert await reader.take() == ["a", "b", "C"]


async def test_what_does_not_matter_waits_for_what_does():
    source = Source("a", "B").open(0)
    async with joined(source, 0) as reader:
        waiting = asyncio.create_task(reader.take())
        await until(lambda: source.given == 1)
        assert not waiting.done()
        source.open()
        assert await waiting == ["a", "B"]


async def test_what_came_before_a_pause_leaves_after_its_interval_though_nothing_follows():
    source = Source("A", "B", "C").open(0, 1)
    async with joined(source, 0.01) as reader:
        assert await reader.take() == ["A"]
        assert await asyncio.wait_for(reader.take(), 30) == ["B"]
        assert source.given == 2


async def test_what_comes_after_the_interval_leaves_at_once():
    source = Source("A", "B", "C").open(0)
    async with joined(source, 0) as reader:
        assert await reader.take() == ["A"]
        for index, item in ((1, "B"), (2, "C")):
            source.open(index)
            assert await reader.take() == [item]


async def test_a_source_that_never_waits_is_read_in_few_messages():
    source = Source(*"ABCDEFGH").open()
    async with joined(source) as reader:
        assert await rest(reader) == [["A"], list("BCDEFGH")]


async def test_a_source_without_anything_that_matters_ends_with_what_it_had():
    async with joined(Source("a", "1").open()) as reader:
        assert await rest(reader) == [["a"]]
    async with joined(Source().open()) as reader:
        assert await rest(reader) == [[]]


async def test_a_failure_comes_after_what_was_there_before_it():
    async with joined(Source("A", "b", "C", ValueError("broken")).open()) as reader:
        assert [await reader.take(), await reader.take()] == [["A"], ["b", "C"]]
        with pytest.raises(ValueError, match="broken"):
            await reader.take()


async def test_a_failure_before_anything_that_matters_comes_alone():
    async with joined(Source("a", "b", ValueError("broken")).open()) as reader:
        with pytest.raises(ValueError, match="broken"):
            await reader.take()


@pytest.mark.parametrize("opened", [(), (0,), (0, 1)])
async def test_leaving_closes_the_source_and_leaves_no_task_behind(opened):
    source = Source("A", "B", "C")
    for index in opened:
        source.open(index)
    before = asyncio.all_tasks()
    async with joined(source) as reader:
        if opened:
            await reader.take()
        await until(lambda: source.given == len(opened) and source.tasks)
    assert source.closed.is_set()
    assert asyncio.all_tasks() == before


async def test_who_is_cancelled_while_it_waits_stops_the_source_at_once():
    source = Source("A")

    async def read():
        async with joined(source) as reader:
            await reader.take()

    reading = asyncio.create_task(read())
    await until(lambda: source.tasks)
    reading.cancel()
    await asyncio.wait({reading})
    assert reading.cancelled()
    assert source.closed.is_set()


async def test_a_source_lives_in_one_task_from_its_beginning_to_its_end():
    source = Source("A", "B")
    async with joined(source.open(0)) as reader:
        await reader.take()
        await until(lambda: source.given == 1)
    assert len(source.tasks) == 1
