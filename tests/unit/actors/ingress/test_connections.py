"""Connections are made once, and one that did not answer is tried again."""

from hotswap_ray.actors.ingress.connections import Connections
from hotswap_ray.core.routing.target import Target

A, B = Target("a", 1, 4), Target("b", 1, 4)


class Line:
    """A connection whose first pings fail."""

    def __init__(self, failures):
        self.failures = failures

    async def ping(self):
        self.failures -= 1
        if self.failures >= 0:
            raise ConnectionError("not yet")


def lines(**failures):
    """Connections to models that stay silent for so many pings, and the targets connected."""
    made = []

    def connect(target):
        made.append(target.app)
        return Line(failures.get(target.model, 0))

    return Connections(connect), made


async def test_a_model_that_did_not_answer_is_reached_the_next_time_over_the_same_connection():
    connections, made = lines(b=1)
    targets = {A.app: A, B.app: B}

    await connections.reach(targets)
    first = connections.reached(targets)
    await connections.reach(targets)

    assert first == [A.app]
    assert connections.reached(targets) == [A.app, B.app]
    assert made == [A.app, B.app]


async def test_what_is_not_kept_is_connected_anew():
    connections, made = lines()
    await connections.reach({A.app: A})

    connections.keep([])

    assert connections.reached([A.app]) == []
    assert connections.to(A) is connections.to(A)
    assert made == [A.app, A.app]
