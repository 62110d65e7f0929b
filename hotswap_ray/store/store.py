"""The one object that the rest of the package calls the store."""

from __future__ import annotations

from hotswap_ray.store.ab_tests import ABTestTables
from hotswap_ray.store.decisions import DecisionTables
from hotswap_ray.store.pending import PendingTables
from hotswap_ray.store.portable import PortableLearnings


class Store(ABTestTables, DecisionTables, PendingTables, PortableLearnings):
    """Everything durable, behind one URL; blocking, so actors call it in a thread.

    Opening brings the schema to the newest revision. Several processes may open one store.
    Each method is one transaction; ``transaction()`` joins several. A returned write
    survives ``kill -9`` and a power cut. The learnings (outcomes, evidence, knowledge) have
    one writer, the learning actor: import through it while it runs.

    Args:
        url: ``sqlite:///path/file.db`` (default of the product, one machine) or
            ``postgresql+psycopg://user@host/database`` (a cluster).

    Raises:
        StoreError: The database refused; the sentence says why. All methods may raise it.

    Example:
        >>> store = Store("sqlite://")
        >>> store.next_generation("qwen-7b"), store.next_generation("qwen-7b")
        (1, 2)
        >>> store.close()
    """
