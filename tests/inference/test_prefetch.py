from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rfdetr_core.inference import prefetch as prefetching
from rfdetr_core.inference.prefetch import prefetch


@pytest.fixture(autouse=True)
def four_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetching, "workers", lambda: 4)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


def slow_first(number: int) -> int:
    """The first of every four takes longest, so the others are ready before it."""
    time.sleep(0.02 if number % 4 == 0 else 0)
    return number * 10


def test_the_order_is_that_of_the_items() -> None:
    assert list(prefetch(slow_first, iter(range(21)), 6)) == [number * 10 for number in range(21)]
    assert list(prefetch(slow_first, [], 6)) == []
    assert list(prefetch(slow_first, [3], 6)) == [30]
    assert not threads()


def test_an_error_is_raised_when_its_item_is_reached() -> None:
    def fail_at_five(number: int) -> int:
        if number == 5:
            raise ValueError("the fifth")
        return slow_first(number)

    values = prefetch(fail_at_five, range(20), 8)
    assert [next(values) for _ in range(5)] == [0, 10, 20, 30, 40]
    with pytest.raises(ValueError, match="the fifth"):
        next(values)
    assert not threads()


def test_few_items_are_taken_before_they_are_asked_for() -> None:
    taken = []

    def source() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    values: Any = prefetch(slow_first, source(), 6)
    for count in range(1, 11):
        next(values)
        assert len(taken) == count + 6
    values.close()
    assert len(taken) == 16


def test_no_thread_is_left_when_the_consumer_stops_early() -> None:
    started = []

    def note(number: int) -> int:
        started.append(number)
        return slow_first(number)

    values: Any = prefetch(note, range(100), 8)
    next(values)
    assert threads()
    values.close()
    assert not threads()
    assert len(started) <= 9


def test_one_item_is_prepared_without_a_thread() -> None:
    assert list(prefetch(lambda _: threading.current_thread(), [None], 4)) == [threading.current_thread()]
