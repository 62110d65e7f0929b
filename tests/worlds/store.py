"""The store of a world, which has the troubles that a test wants."""

import asyncio
import threading
from contextlib import contextmanager

from hotswap_ray.core.errors import StoreError
from hotswap_ray.store import Store


class Held:
    """A save that has begun and does not end before it is released."""

    def __init__(self, fits):
        self.fits = fits
        self.begun = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._released = threading.Event()

    def wait(self):
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self._released.wait(30), "nobody released it"

    def release(self):
        self._released.set()


class ScriptedStore(Store):
    """The real store; it can refuse, be slow, lose the answer to a commit, or see a crash."""

    _held = None

    def __init__(self, url):
        self.refuses = False
        self.after_commit = None
        self.commits = 0
        super().__init__(url)

    def hold(self, phase):
        """Be slow with the next save of a swap that is in a phase, until it is released."""
        self._held = Held(lambda doc: doc["phase"] == phase)
        return self._held

    def save_swap(self, doc, note=""):
        self._wait(doc)
        super().save_swap(doc, note)

    def commit_swap(self, swap_doc, table_doc):
        self._wait(swap_doc)
        super().commit_swap(swap_doc, table_doc)

    def _wait(self, doc):
        held = self._held
        if held and held.fits(doc):
            self._held = None
            held.wait()

    @contextmanager
    def transaction(self):
        if getattr(self._local, "connection", None) is not None:
            with super().transaction() as connection:
                yield connection
            return
        if self.refuses:
            raise StoreError("the store is locked by another process")
        with super().transaction() as connection:
            yield connection
        self.commits += 1
        if self.after_commit:
            self.after_commit()

    @contextmanager
    def _reading(self):
        if self.refuses:
            raise StoreError("the store is locked by another process")
        with super()._reading() as connection:
            yield connection
