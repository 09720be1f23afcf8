"""Whether a rate was kept: in any interval T, at most limit + rate * T slots are spent. Pure.

What is seen of a call is when it was asked for and when it was there; it was spent in between. So the
calls that began and ended in an interval were all spent in it: if they are too many, so is what was spent.
"""

from __future__ import annotations

from math import ceil, inf

Calls = list[tuple[int, int]]  # asked, returned; nanoseconds
ROUNDING = 1e-6  # of a slot


def too_many(calls: Calls, limit: int, a_second: float) -> float:
    """Slots above limit + rate * T, in the interval that had most."""
    per_ns = a_second / 1e9
    calls = sorted(calls, key=lambda call: call[1])
    sums = _PrefixSums([-per_ns * (end - calls[0][1]) for _, end in calls])
    worst = 0.0
    for place in sorted(range(len(calls)), key=lambda place: calls[place][0], reverse=True):
        sums.count(place)
        begin = calls[place][0]
        worst = max(worst, sums.greatest() - per_ns * (calls[0][1] - begin) - limit)
    return float(ceil(worst - ROUNDING))


class _PrefixSums:
    """For each place, a number and how many of the places up to it count; the greatest sum of both
    among those that count, kept up in a tree: a node has how many, and the greatest below it."""

    def __init__(self, numbers: list[float]) -> None:
        self._numbers = numbers
        self._leaves = 1 << max(0, len(numbers) - 1).bit_length()
        self._counts = [0] * (2 * self._leaves)
        self._greatest = [-inf] * (2 * self._leaves)

    def count(self, place: int) -> None:
        """From now on this one counts."""
        counts, greatest = self._counts, self._greatest
        node = place + self._leaves
        counts[node], greatest[node] = 1, self._numbers[place] + 1
        while node > 1:
            node //= 2
            left, right = 2 * node, 2 * node + 1
            counts[node] = counts[left] + counts[right]
            greatest[node] = max(greatest[left], counts[left] + greatest[right])

    def greatest(self) -> float:
        return self._greatest[1]
