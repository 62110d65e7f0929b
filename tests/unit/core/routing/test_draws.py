"""Replicas agree whom they drew for a conversation by writing to one log and following it."""

from hotswap_ray.core.routing.draws import UNREAD, DrawLog, Drawn


def test_replicas_that_drew_at_the_same_moment_come_to_agree():
    log, replicas, places = DrawLog("l"), [Drawn(), Drawn()], [UNREAD, UNREAD]
    for replica, model in zip(replicas, "bc", strict=True):
        replica.add(7, model)
        log.extend(replica.fresh)
    for number, replica in enumerate(replicas):
        places[number], draws = log.after(places[number])
        replica.take(draws)
    assert [replica.of(7) for replica in replicas] == ["c", "c"]
    assert [log.after(place) for place in places] == [(place, []) for place in places]


def test_who_was_away_for_long_gets_what_is_kept():
    log = DrawLog("l", most=3)
    place, _ = log.after(UNREAD)
    log.extend([(n, "b") for n in range(5)])
    assert log.after(place) == (("l", 5), [(2, "b"), (3, "b"), (4, "b")])
    assert log.after(("l", 4)) == (("l", 5), [(4, "b")])


def test_after_a_restart_the_log_is_read_from_its_beginning():
    old, new = DrawLog("old"), DrawLog("new")
    old.extend([(1, "b"), (2, "b")])
    new.extend([(3, "c")])
    assert new.after(old.after(UNREAD)[0]) == (("new", 1), [(3, "c")])


def test_the_oldest_conversations_are_forgotten():
    drawn = Drawn(most=2)
    for mark in (1, 2):
        drawn.add(mark, "b")
    assert drawn.of(1) == "b"  # and so used last
    drawn.add(3, "b")
    assert [drawn.of(mark) for mark in (1, 2, 3)] == ["b", None, "b"]
    assert drawn.fresh == [(2, "b"), (3, "b")]
