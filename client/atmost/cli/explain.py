"""explain: why something waits, in a sentence or two."""

from __future__ import annotations

import shlex
from argparse import Namespace

from atmost import wire
from atmost.cli import output
from atmost.cli.parser import Command, json_option
from atmost.cli.words import duration, requests_text, slots_text
from atmost.errors import LimitNotFound
from atmost.rates import rate_text
from atmost.sync import Client

EXIT_NO_SUCH_PROCESS = 1
PID_DIGITS_MAX = 9


def explain(given: Namespace) -> int:
    """Each waiter of a limit, or of a process."""
    (word,) = given.names
    pid = int(word) if word.isascii() and word.isdigit() and len(word) <= PID_DIGITS_MAX else None
    with Client(given.socket) as client:
        told = client.explain(word) if pid is None else _of_number(client, word, pid)
    if given.json:
        output.write_json(output.fields_of(told, ("request",)))
    elif told.limits:
        _of_limit(told)
    else:
        _of_process(told, word)
    nothing = pid is not None and not (told.limits or told.waiting or told.held)
    return EXIT_NO_SUCH_PROCESS if nothing else 0


def _of_number(client: Client, word: str, pid: int) -> wire.Explanations:
    """A number is a process, if that has anything; else it may be the name of a limit."""
    told = client.explain(pid=pid)
    if told.waiting or told.held:
        return told
    try:
        return client.explain(word)
    except LimitNotFound:
        return told


def _of_limit(told: wire.Explanations) -> None:
    (limit,) = told.limits
    name = output.shown(f'"{limit.name}"')
    if not limit.active:
        _say(
            f"{name} is not enforced, so nobody waits for it; enforce it with: "
            f"atmost enable {shlex.quote(limit.name)}"
        )
    elif not limit.limit:
        _say(
            f"{name} has limit 0, so nobody waits for it: every request is refused; raise it with: "
            f"atmost update {shlex.quote(limit.name)} --limit N"
        )
    elif not told.waiting:
        rate = rate_text(limit.slot_decay_per_second)
        spent = f", {limit.spent:.3g} spent (they come back at {rate})" if limit.spent else ""
        _say(f"nobody waits for {name}: {limit.held} of {slots_text(limit.limit)} held{spent}")
    else:
        _waiting(told)


def _of_process(told: wire.Explanations, word: str) -> None:
    if told.waiting:
        _waiting(told)
    elif told.held:
        for holder in told.held:
            _say(
                f"{_who(holder)} waits for nothing; it holds {slots_text(holder.slots)} of "
                f'"{holder.limit}" since {duration(holder.age_seconds)} (grant {holder.token})'
            )
        _say_more(told.held_total - len(told.held), [])
    else:
        output.talk(
            f"pid {word} neither waits nor holds anything, and no limit has that name; "
            "see who does with: atmost ps"
        )


def _waiting(told: wire.Explanations) -> None:
    for waiter in told.waiting:
        _say(sentence(waiter))
    _say_more(told.total - len(told.waiting), [limit.name for limit in told.limits])


def _say_more(more: int, names: list[str]) -> None:
    """What was left out, and where it is."""
    if more > 0:
        where = " ".join(["atmost ps", *map(shlex.quote, names)])
        _say(f"and {more} more; see all of them with: {where}")


def sentence(waiter: wire.Explanation) -> str:
    """Why it waits, for people."""
    asked = " and ".join(f'{slots_text(n)} of "{name}"' for name, n in waiter.slots.items())
    text = f"{_who(waiter)} waits {duration(waiter.waited_seconds)} for {asked}: "
    several = len(waiter.slots) > 1
    text += "; ".join(_lack(lack, several) for lack in waiter.lacks)
    more = waiter.lacks_total - len(waiter.lacks)
    if more > 0:
        text += f"; and it waits for {more} more of these limits"
    if waiter.keeps:
        text += "; others passed it so often that all of its lines wait for it now"
    if waiter.gives_up_in is not None:
        text += f"; it gives up in {duration(waiter.gives_up_in)}"
    return text


def _lack(lack: wire.Lack, several: bool) -> str:
    parts = [f'of "{lack.limit}" {_state(lack)}' if several else _state(lack)]
    if lack.own:
        parts.append(f"it holds {slots_text(lack.own)} there itself, so it may wait for itself")
    if lack.place > 1:
        parts.append(f"{requests_text(lack.place - 1)} ahead of it")
    parts.append(_when(lack))
    return "; ".join(filter(None, parts))


def _state(lack: wire.Lack) -> str:
    """Who has the slots."""
    said = []
    if lack.held >= lack.limit_slots:
        said.append(f"all {lack.limit_slots} are held" if lack.limit_slots > 1 else "it is held")
    elif lack.held:
        said.append(f"{lack.held} of {lack.limit_slots} are held")
    if lack.longest:
        longest = lack.longest[0]
        how = "the longest by" if lack.holders > 1 else "by"
        said[-1:] = [
            f"{''.join(said[-1:])}, {how} {_who(longest)} for {duration(longest.age_seconds)}"
        ]
    if lack.spent:
        rate = rate_text(lack.slot_decay_per_second)
        said.append(f"{lack.spent:.3g} of {lack.limit_slots} are spent, and come back at {rate}")
    if lack.fits:
        said.append("there is room for it, but those ahead go first")
    return ", ".join(said) or "slots are free"


def _when(lack: wire.Lack) -> str:
    """When it will go."""
    if lack.starts_in is None:
        return "nobody has released a slot there yet, so there is no telling when it goes"
    if lack.exact:
        return f"it goes in {duration(lack.starts_in)}"
    if lack.mean_hold_seconds is None:
        return f"it goes in about {duration(lack.starts_in)}"
    mean = duration(lack.mean_hold_seconds)
    return f"holders kept their slots {mean} on average, so about {duration(lack.starts_in)}"


def _who(one: wire.Explanation | wire.TicketRecord) -> str:
    return f"pid {one.pid} ({one.user}, {one.command})"


def _say(text: str) -> None:
    output.write_text(output.shown(text) + "\n")


COMMANDS = {
    "explain": Command(
        "NAME|PID [--json]",
        "Say why requests wait: those at the limit NAME, or those of the process PID. A line for\n"
        "each: who holds what it lacks and since when, how many are ahead, and when it will go: exactly\n"
        "if only decay decides that, else estimated from how long recent holders took.\n\n"
        "--json has one object: waiting (a list), total, held, limits; see PROTOCOL.md, explanations.\n"
        "Exit code: 1 if PID neither waits nor holds anything.",
        json_option,
        explain,
        names_min=1,
        names_max=1,
    ),
}
