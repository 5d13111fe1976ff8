"""Which columns look as if what they hold must stay secret, by their names.

A declaration's fields go to everybody in its rooms, so that one careless name, such as
``password_hash``, is enough. Only names and types are looked at: nothing in here may
read a value, and no answer says that a column is harmless.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import visitors

from .row import getter_of, reads_of_first


def _listed(names: str) -> frozenset[str]:
    return frozenset(names.split())


_WORDS = _listed(
    "password passwords passwd pwd pw passphrase passphrases passcode passcodes pin "
    "secret secrets token tokens hash hashes hashed hmac salt salts otp otps totp hotp "
    "apikey apikeys jwt jwts bearer csrf xsrf credential credentials uniquifier cvv "
    "cvc"
)
# Nobody writes these together to mean something else.
_ENDS = tuple(
    _listed(
        "password passwd passphrase token tokens secret hash apikey privatekey "
        "secretkey accesskey uniquifier"
    )
)
_STARTS = ("password", "passwd", "passphrase", "apikey", "apitoken", "authtoken")
_PAIRS = frozenset(
    (first, second)
    for firsts, seconds in (
        (
            "access api auth authentication encryption master private secret session "
            "shared signing",
            "key keys",
        ),
        ("auth backup login otp recovery reset security verification", "code codes"),
        ("user login db database smtp mail ftp", "pass"),
        ("remember session", "cookie cookies"),
        ("security", "answer answers"),
        ("alternative", "id"),
    )
    for first in firsts.split()
    for second in seconds.split()
)
# What is said of a secret is none: when, how many, of which kind, whether.
_SAID_OF_ONE = _listed(
    "at on date time timestamp expires expiry expired expiration age lifetime ttl "
    "count counts total limit quota length size balance price amount symbol "
    "type kind name label algorithm algo method scheme policy strength status state "
    "attempts failures version tag tags enabled disabled required verified valid "
    "confirmed changed needed"
)
_QUESTIONS = _listed(
    "is has have had needs need must can may should use uses allow allows require "
    "requires show hide"
)
_COUNTING = _listed("max min total num number used left remaining spent")
# Values of these are too few, or no text, to be kept secret.
_HARMLESS = (sa.Boolean, sa.Date, sa.DateTime, sa.Time, sa.Interval, sa.Float)


def words_of(name: str) -> list[str]:
    """Return a name's words, in small letters: of snake_case, camelCase and paths."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return [word.lower() for word in re.split(r"[\W\d_]+", parted) if word]


def looks_secret(name: str) -> bool:
    """Say whether a column of this name is likely to hold a secret."""
    words = words_of(name)
    if not words or words[-1] in _SAID_OF_ONE or words[0] in _QUESTIONS:
        return False
    # Of several, used_tokens and tokens_used: a number. A last_token_used is one.
    rest = words[1:] if words[0] in _COUNTING else words[:-1]
    if _COUNTING & {words[0], words[-1]} and rest[-1:] and rest[-1].endswith("s"):
        return False
    return any(map(_is_secret, words)) or any(
        pair in _PAIRS for pair in pairwise(words)
    )


def _is_secret(word: str) -> bool:
    return word in _WORDS or word.endswith(_ENDS) or word.startswith(_STARTS)


def of_column(attribute: str, column: Any) -> str | None:
    """Return which name of a mapped column looks secret; None: none does.

    Args:
        attribute: The attribute's name.
        column: What it is mapped to: a column, or an expression of several.
    """
    if not _may_hold_one(column.type, attribute):
        return None
    if looks_secret(attribute):
        return attribute
    for part in visitors.iterate(column):
        if not isinstance(part, sa.Column):
            continue
        if looks_secret(part.name) and _may_hold_one(part.type, part.name):
            return str(part.name)
        if looks_secret(type(part.type).__name__.removesuffix("Type")):
            return type(part.type).__name__
    return None


def of_property(mapper: Mapper[Any], name: str) -> str | None:
    """Return which name that a property or hybrid reads, or its own, looks secret.

    As far as its function reads them itself, or by other properties of the model.
    """
    if words_of(name)[:1] and words_of(name)[0] in _QUESTIONS:
        return None
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        getter = getter_of(mapper.class_, name)
        column = mapper.columns.get(name)
        if column is not None:
            found = of_column(name, column)
        elif getter is not None:
            found = name if looks_secret(name) else None
            waiting += sorted(reads_of_first(getter))
        else:
            continue
        if found is not None:
            return found
    return None


def _may_hold_one(kind: Any, name: str) -> bool:
    while isinstance(kind, sa.types.TypeDecorator):
        kind = kind.impl_instance if hasattr(kind, "impl_instance") else kind.impl
    if isinstance(kind, _HARMLESS):
        return False
    # Of tokens, in a number, it says how many.
    is_number = isinstance(kind, (sa.Integer, sa.Numeric))
    return not (is_number and words_of(name)[-1:] and words_of(name)[-1].endswith("s"))


def of_field(mapper: Mapper[Any], name: str, field: Any) -> str | None:
    """Return which name makes a declared field look secret; None: none does.

    Args:
        name: Under which it is sent.
        field: A column's name, or a path; anything else is made by a function, of
            which only the field's name is known.
    """
    if not isinstance(field, str):
        field = name
    column = mapper.columns.get(field)
    if column is None:
        return next((n for n in (name, field) if looks_secret(n)), None)
    if looks_secret(name) and _may_hold_one(column.type, name):
        return name
    return of_column(field, column)
