"""What a store in memory keeps the past in: as large as what is worth keeping, and never cleared in one go."""

from __future__ import annotations

from poundlock.stores.keeping import GRACE, Expiring, Heap

FOR_EVER = float("inf")


# ------------------------------------------------------------------------------------------------------ expiring
def test_what_has_expired_goes_a_few_at_a_time():
    """`prune` takes away at most as many as it is told to, those that expired first, and none before its time."""
    kept = Expiring()
    for number in range(10):
        kept.put(number, f"value {number}", 100.0 + number)
    kept.prune(100.0 + GRACE - 1, 99)
    assert len(kept) == 10
    kept.prune(1_000.0 + GRACE, 3)
    assert [kept.get(number) is None for number in range(5)] == [True, True, True, False, False]
    kept.prune(105.0 + GRACE, 99)
    assert len(kept) == 4
    assert kept.expiry(9) == 109.0
    assert kept.expiry(0) == 0.0


def test_what_is_put_again_has_its_new_time():
    """An entry that was put again goes at its new time, be it later or never; dropped, it goes at once."""
    kept = Expiring()
    for key, again in (("later", 500.0), ("never", FOR_EVER), ("dropped", 500.0)):
        kept.put(key, "first", 100.0)
        kept.put(key, "again", again)
    kept.drop("dropped")
    kept.drop("dropped")
    kept.prune(200.0 + GRACE, 99)
    assert [kept.get(key) for key in ("later", "never", "dropped")] == ["again", "again", None]
    kept.prune(600.0 + GRACE, 99)
    assert [kept.get(key) for key in ("later", "never")] == [None, "again"]


def test_putting_one_key_for_ever_takes_no_more_room():
    """However often a key is put, dropped, or kept for ever and then not, what is out of date is swept out."""
    kept = Expiring()
    for number in range(10_000):
        kept.put("same", number, 100.0 + number)
        kept.put("changing", number, FOR_EVER if number % 2 else 1e6 + number)
        kept.put("dropped", number, 2e6 + number)
        kept.drop("dropped")
    assert (len(kept), kept.get("same")) == (2, 9999)
    assert len(kept._heap) < 200
    kept.put("changing", "at last", 3e6)
    kept.prune(4e6, 999)
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
