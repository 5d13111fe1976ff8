"""The primary key of a mapped object, as its session knows it."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    defer,
    mapped_column,
    synonym,
)

from flask_livepush.primary_keys import primary_key


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "row"
    one: Mapped[int] = mapped_column("first", primary_key=True)
    two: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(default="")
    other = synonym("text")


def test_it_has_all_columns_before_and_after_the_flush() -> None:
    row = Row(one=1, two="x")
    assert primary_key(row) == (1, "x")
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(row)
        session.commit()
        assert primary_key(row) == (1, "x")
        found = session.get(Row, (1, "x"), options=[defer(Row.text)])
        assert found is not None
        session.delete(found)
        session.commit()
        assert primary_key(row) == (1, "x")
    engine.dispose()


@pytest.mark.parametrize("given", [Row(), Row(one=1), object(), None, Row, 7, "x"])
def test_there_is_none_where_nothing_is_mapped_or_known(given: object) -> None:
    assert primary_key(given) is None
