from __future__ import annotations

from tests.support.mariadb import MariaDB


def test_gives_an_empty_database(mariadb_url: str) -> None:
    from sqlalchemy import create_engine, inspect, text

    engine = create_engine(mariadb_url)
    with engine.begin() as connection:
        assert inspect(connection).get_table_names() == []
        connection.execute(text("CREATE TABLE todo (id int)"))
        assert connection.execute(text("SELECT @@character_set_server")).scalar() == (
            "utf8mb4"
        )
    engine.dispose()


def test_drops_a_database_that_is_still_in_use(mariadb: MariaDB) -> None:
    import pytest
    import sqlalchemy as sa

    with mariadb.database() as url:
        engine = sa.create_engine(url)
        connection = engine.connect()
        connection.execute(sa.text("CREATE TABLE todo (id int)"))
        connection.execute(sa.text("INSERT INTO todo VALUES (1)"))
    with pytest.raises(sa.exc.OperationalError):
        connection.execute(sa.text("SELECT 1"))
    connection.close()
    engine.dispose()
