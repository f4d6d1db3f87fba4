"""What a store in memory keeps the past in: as large as what is worth keeping, and never cleared in one go."""

from __future__ import annotations

from poundlock.stores.keeping import GRACE, Expiring, Heap

FOR_EVER = float("inf")


# ------------------------------------------------------------------------------------------------------ expiring
HOUR = 3600.0


def test_what_has_expired_goes_a_few_at_a_time():
    """`prune` takes away at most as many as it is told to, the hours that are over first, and none before its time."""
    kept = Expiring()
    for number in range(10):
        kept.put(number, f"value {number}", number // 5 * HOUR + 100.0)
    kept.prune(100.0 + GRACE, 99)
    assert len(kept) == 10
    kept.prune(10 * HOUR + GRACE, 3)
    assert len(kept) == 7
    kept.prune(HOUR + GRACE, 99)
    assert [kept.get(number) for number in (4, 5)] == [None, "value 5"]
    assert len(kept) == 5
    kept.prune(2 * HOUR + GRACE, 99)
    assert len(kept) == 0
    assert kept.expiry(5) == 0.0


def test_what_is_put_again_has_its_new_time():
    """An entry that was put again goes at its new time, be it later or never; dropped, it goes at once."""
    kept = Expiring()
    for key, again in (("later", 20 * HOUR), ("never", FOR_EVER), ("sooner", 2 * HOUR), ("dropped", 20 * HOUR)):
        kept.put(key, "first", 5 * HOUR)
        kept.put(key, "again", again)
    kept.drop("dropped")
    kept.drop("dropped")
    kept.prune(4 * HOUR + GRACE, 99)
    assert [kept.get(key) for key in ("later", "never", "sooner", "dropped")] == ["again", "again", None, None]
    assert kept.expiry("later") == 20 * HOUR
    kept.prune(30 * HOUR + GRACE, 99)
    assert [kept.get(key) for key in ("later", "never")] == [None, "again"]


def test_putting_one_key_for_ever_takes_no_more_room():
    """However often a key is put, it has one place in each hour in which it was to expire, until that is over."""
    kept = Expiring()
    for number in range(10_000):
        kept.put("same", number, HOUR + number / 100)
        kept.put("moving", number, HOUR * (10 + number // 1000))
    assert (len(kept), sum(map(len, kept._hours.values()))) == (2, 1 + 10)
    kept.prune(100 * HOUR + GRACE, 999)
    assert (len(kept), kept._hours) == (0, {})
    kept.put("same", "again", 200 * HOUR)
    kept.prune(300 * HOUR + GRACE, 1)
    assert len(kept) == 0


# ---------------------------------------------------------------------------------------------------------- heap
def test_what_is_out_of_date_is_swept_out():
    """A heap whose entries mostly mean nothing any more stays small; those that do stay in order, each once."""
    heap, current = Heap(), set()
    for number in range(10_000, 0, -1):
        if number % 1000 == 0:
            current.add(number)
            heap.push(number, current.__contains__)
        heap.push(number, current.__contains__)
    assert len(heap) < 200
    assert heap[0] == min(heap)
    assert current <= set(heap)


def test_sweeping_is_no_more_work_than_pushing():
    """Where most entries are current, sweeps are rare: a few looks at an entry for each push."""
    heap, looks = Heap(), []
    for number in range(10_000):
        heap.push(number, lambda each: looks.append(each) or True)
    assert len(heap) == 10_000
    assert len(looks) < 30_000
