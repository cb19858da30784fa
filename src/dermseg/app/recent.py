"""Keeps the most recent of what was made, so that redrawing makes nothing again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

Value = TypeVar("Value")


class Recent:
    """Values by key, of ``capacity`` bytes in all; the one not asked for the longest goes first, the newest stays."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """The key's value, ``size`` of it bytes; made if it is not there. What ``make`` raises is not kept."""
        if key not in self._values:
            value = make()
            self._values[key] = value, size(value)
        self._values.move_to_end(key)
        while len(self._values) > 1 and sum(held for _, held in self._values.values()) > self._capacity:
            self._values.popitem(last=False)
        return cast(Value, self._values[key][0])
