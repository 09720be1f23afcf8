"""A line against a plain list of the tickets that stand in it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from atmostd.line import Line


@dataclass(eq=False)
class Person:
    number: int
    shape: Hashable


shapes = st.sampled_from("abc")
moves = st.lists(shapes | st.integers(0, 20), max_size=60)  # a shape arrives, or somebody leaves


@given(moves)
def test_a_line_says_what_a_list_would_say(moves: list[str | int]) -> None:
    line: Line[Person] = Line()
    plain: list[Person] = []
    everybody: list[Person] = []
    for move in moves:
        if isinstance(move, str):
            person = Person(len(everybody) + 1, move)
            everybody.append(person)
            plain.append(person)
            line.add(person)
        elif everybody:
            person = everybody[move % len(everybody)]  # perhaps gone already
            plain = [other for other in plain if other is not person]
            line.discard(person)
        check(line, plain, everybody)


def check(line: Line[Person], plain: list[Person], everybody: list[Person]) -> None:
    assert list(line) == plain
    assert len(line) == len(plain)
    assert bool(line) == bool(plain)
    assert [person for person in everybody if person in line] == plain
    assert line.places(plain) == list(range(1, len(plain) + 1))
    assert line.places(plain[1::2]) == list(range(1, len(plain) + 1))[1::2]
    firsts = [
        person
        for person in plain
        if person is next(other for other in plain if other.shape == person.shape)
    ]
    assert line.heads() == firsts
    for person in everybody:
        same = [other for other in plain if other.shape == person.shape]
        assert line.head_like(person) is (same[0] if same else None)


def test_who_asks_the_same_stands_in_one_lane_however_many_they_are() -> None:
    line: Line[Person] = Line()
    crowd = [Person(number, "same") for number in range(1, 1_001)]
    for person in crowd:
        line.add(person)
    assert line.heads() == crowd[:1]
    line.discard(crowd[0])
    assert line.heads() == crowd[1:2]


def test_leaving_a_line_twice_or_without_standing_in_it_is_no_error() -> None:
    line: Line[Person] = Line()
    first, second, stranger = Person(1, "a"), Person(2, "a"), Person(3, "b")
    line.add(first)
    line.add(second)
    line.discard(first)
    line.discard(first)
    line.discard(stranger)
    assert list(line) == [second]
