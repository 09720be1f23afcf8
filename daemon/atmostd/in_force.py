"""What is declared, put in force: by the actors, each in its turn."""

from __future__ import annotations

from collections.abc import Iterator

from atmostd.declared import Declared, Steps
from atmostd.listing import declared_of
from atmostd.registry import Registry
from atmostd.ticket import Delete, Edit


def put_in_force(registry: Registry, name: str, declared: Declared | None) -> None:
    """Make true what is on disk now; None: the limit is deleted."""
    actor = registry.actors.get(name)
    if declared is None:
        if actor is not None:
            registry.forget(name)
            actor.post(Delete())
    elif actor is None:
        rate = declared.slot_decay_per_second
        registry.make(name, declared.limit, rate, declared.active, declared.origin)
    else:
        # Also a create: a request may have made it implicitly while the write was under way.
        registry.set_origin(actor, declared.origin)
        actor.post(Edit(declared.limit, declared.slot_decay_per_second, declared.active))


def put_all_in_force(registry: Registry, steps: Steps) -> Iterator[None]:
    for name, declared in steps:
        put_in_force(registry, name, declared)
        yield


def edit_templated(registry: Registry) -> Iterator[None]:
    """Limits that requests have made become as their templates are now; one that templates have made
    and that has none any more stays until it is idle."""
    for name in registry.made_by_requests():
        actor = registry.actors.get(name)
        shall = registry.templates.declared(name)
        if actor is not None and shall is not None and declared_of(actor) != shall:
            put_in_force(registry, name, shall)
        yield
