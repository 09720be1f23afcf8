"""What anybody may take of the daemon, so that enough is left for others; an administrator sets it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from atmost.errors import InvalidValue
from atmostd import config


def _bound(default: float, meaning: str, least: float = 1) -> Any:
    return field(default=default, metadata={"meaning": meaning, "least": least})


@dataclass(slots=True)
class Bounds:
    """The names are those of `--bound`, of [bounds] in the configuration file, and of the error that
    says that a bound was reached. Every part of the daemon has this one object: take_over() is how a
    reload changes it for all of them."""

    connections: int = _bound(config.CONNECTIONS_MAX, "connections, and clients, in all")
    connections_per_uid: int = _bound(config.CONNECTIONS_PER_UID_MAX, "the same, of one user")
    connections_kept: int = _bound(
        config.CONNECTIONS_KEPT, "of them, kept for root and the admin group", least=0
    )
    hello_seconds: float = _bound(
        config.HELLO_SECONDS, "until a client says who it is", least=0.001
    )
    requests_in_flight: int = _bound(
        config.REQUESTS_IN_FLIGHT_MAX, "unanswered ones, until no more of a client's are read"
    )
    requests_per_connection: int = _bound(
        config.REQUESTS_PER_CONNECTION_MAX, "grants and waiting requests of one client"
    )
    waiters_per_connection: int = _bound(
        config.WAITERS_PER_CONNECTION_MAX, "waiting requests of one client"
    )
    waiters_per_limit: int = _bound(
        config.WAITERS_PER_LIMIT_MAX, "requests in the line of one limit"
    )
    implicit_limits: int = _bound(config.IMPLICIT_LIMITS_MAX, "limits made by requests, in all")
    implicit_limits_per_uid: int = _bound(
        config.IMPLICIT_LIMITS_PER_UID_MAX, "the same, of one user"
    )
    template_limits: int = _bound(config.TEMPLATE_LIMITS_MAX, "limits made by templates, in all")
    template_limits_per_uid: int = _bound(
        config.TEMPLATE_LIMITS_PER_UID_MAX, "the same, of one user"
    )
    draft_entries: int = _bound(
        config.DRAFT_ENTRIES_MAX, "limits and templates of one `atmost apply`"
    )
    watches: int = _bound(config.WATCHES_MAX, "streams of events, in all")
    watches_per_uid: int = _bound(config.WATCHES_PER_UID_MAX, "the same, of one user")
    output_bytes: int = _bound(
        config.OUTPUT_BYTES_MAX,
        "of answers that a client leaves unread",
        least=config.OUTPUT_BYTES_LEAST,
    )

    def within(self, descriptors: int) -> Bounds:
        """The same, with no more connections than there are descriptors for."""
        most = max(1, (descriptors - config.DESCRIPTORS_OWN) // config.DESCRIPTORS_PER_CLIENT)
        if self.connections <= most:
            return replace(self)
        return replace(
            self, connections=most, connections_kept=min(self.connections_kept, most // 2)
        )

    def take_over(self, other: Bounds) -> None:
        """Be as `other` from now on."""
        for bound in fields(Bounds):
            setattr(self, bound.name, getattr(other, bound.name))

    @property
    def problem(self) -> str:
        """Why these can't be together; empty if they can."""
        if self.connections_kept < self.connections:
            return ""
        return (
            f"connections_kept={self.connections_kept} leaves nobody else "
            f"any of connections={self.connections}"
        )


def check_bound(name: str, value: Any) -> float:
    """What is given for a bound; a whole number where its default is one. Raises InvalidValue."""
    bound = next(bound for bound in fields(Bounds) if bound.name == name)
    default, least = bound.default, bound.metadata["least"]
    kinds = (int,) if type(default) is int else (int, float)
    if (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and least <= value <= config.BOUND_MAX
    ):
        return int(value) if kinds == (int,) else float(value)
    what = "whole number" if kinds == (int,) else "number"
    raise InvalidValue(name, repr(value), f"a {what} from {least} to {config.BOUND_MAX}")


def bound_names() -> list[str]:
    return [bound.name for bound in fields(Bounds)]


def bounds_told() -> str:
    """All bounds with their defaults, for --help."""
    width = max(len(bound.name) for bound in fields(Bounds))
    rows = [
        f"  {bound.name:{width}}  {bound.default:>9,}  {bound.metadata['meaning']}"
        for bound in fields(Bounds)
    ]
    return "bounds, and what they are when they are not set:\n" + "\n".join(rows)
