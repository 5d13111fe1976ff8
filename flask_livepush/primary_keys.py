"""The primary key of an object that SQLAlchemy maps; loaded only where it has any.

Nothing in here may load, flush or refresh the object.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm import InstanceState


def primary_key(instance: object) -> tuple[Any, ...] | None:
    """Return the primary key of an object, as its session knows it.

    Returns:
        None where the object is not mapped, or has no key yet.
    """
    state = inspect(instance, raiseerr=False)
    if not isinstance(state, InstanceState):
        return None
    if state.identity is not None:
        return tuple(state.identity)
    # It is not flushed yet; the application may have given it a key.
    properties = map(state.mapper.get_property_by_column, state.mapper.primary_key)
    values = tuple(state.dict.get(found.key) for found in properties)
    return None if None in values else values
