"""One row as callables of ``track`` see it, and properties and methods of its model."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MethodType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapper, RelationshipProperty

from .readings import Unreadable

Values = Mapping[str, Any]


class Row:
    """One row as callables of ``track`` see it: its columns, read-only.

    Values are as re-read from the database; nothing is loaded on access. Properties,
    hybrids and methods of the model work on it as far as they read columns.
    """

    __slots__ = ("_model", "_values")

    def __init__(self, model: type, values: Values) -> None:
        object.__setattr__(self, "_model", model)
        object.__setattr__(self, "_values", values)

    def __getattr__(self, name: str) -> Any:
        values: Values = object.__getattribute__(self, "_values")
        try:
            value = values[name]
        except KeyError:
            model = object.__getattribute__(self, "_model")
        else:
            if type(value) is Unreadable:
                raise value.error
            return value
        found = inspect.getattr_static(model, name, None)
        getter = getter_of(model, name)
        if getter is not None:
            return got(getter, self)
        if inspect.isfunction(found):
            return MethodType(found, self)
        if isinstance(found, (classmethod, staticmethod)):
            return found.__get__(None, model)
        if found is None or hasattr(type(found), "__get__"):
            raise NotRead(_not_read(model, name, values)) from None
        return found  # a constant of the class

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("Rows given to callables of track() are read-only.")

    def __repr__(self) -> str:
        model = object.__getattribute__(self, "_model").__name__
        return (
            f"<Row of {model}: {', '.join(object.__getattribute__(self, '_values'))}>"
        )


def getter_of(model: type, name: str) -> Callable[[Any], Any] | None:
    """Return the function of a property or hybrid of a model; None: it is none."""
    found = inspect.getattr_static(model, name, None)
    if isinstance(found, (property, hybrid_property)):
        return found.fget
    return found.func if isinstance(found, cached_property) else None


def got(getter: Callable[[Any], Any], row: Row) -> Any:
    try:
        return getter(row)
    except NotRead:
        raise
    except AttributeError as error:
        # Python would ask __getattr__ again, and tell of the property alone.
        raise PropertyRaised(str(error)) from error


class NotRead(AttributeError):
    """A callable asks a row for what was not read.

    The message names it and the remedy, and has no value of the row.
    """


class PropertyRaised(Exception):
    """In place of an AttributeError that a property of the model raised."""


def _not_read(model: type, name: str, values: Values) -> str:
    """Say why a callable can't have an attribute, and what helps."""
    mapper: Mapper[Any] = sa.inspect(model)
    whole = f"{model.__name__}.{name}"
    if not mapper.has_property(name):
        return f"{whole} is no column, and {model.__name__} has nothing of that name."
    if isinstance(mapper.get_property(name), RelationshipProperty):
        return (
            f"{whole} is a relationship, and callables of track() see the columns of "
            f"this row alone. Give a path, as fields={{'author': 'author.name'}}, or "
            f"query what it leads to by the row's foreign key."
        )
    return (
        f"{whole} is not among the columns that were read, which are "
        f"{', '.join(values)}. Name what callables read in columns=."
    )


def reads_of_first(function: Callable[..., Any]) -> set[str]:
    """Return the attributes of its first argument that a function reads itself."""
    code = getattr(function, "__code__", None)
    if code is None or not code.co_argcount:
        return set()
    first = code.co_varnames[0]
    found: set[str] = set()
    before = None
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and before == first:
            found.add(step.argval)
        before = step.argval if step.opname.startswith("LOAD_FAST") else None
    return found
