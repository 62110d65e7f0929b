"""A store travels to an actor as its URL, and an actor waits for one that refuses."""

import pickle
import threading

from hotswap_ray.store import Store, database


def test_a_store_opens_again_where_it_is_unpickled(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/s.sqlite")
    store.next_generation("m")

    assert pickle.loads(pickle.dumps(store)).next_generation("m") == 2


def test_an_actor_that_restarts_waits_until_its_store_opens(tmp_path, monkeypatch):
    """One whose constructor raises would stay dead."""
    place = tmp_path / "later"
    store = Store(f"sqlite:///{place}/s.sqlite")
    travelling = pickle.dumps(store)
    store.close()
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
    place.write_text("in the way")  # no database can be opened here
    tried = threading.Event()
    monkeypatch.setattr(database.time, "sleep", lambda _: (tried.set(), place.unlink()))

    reopened = pickle.loads(travelling)

    assert tried.is_set()
    assert reopened.next_generation("m") == 1
