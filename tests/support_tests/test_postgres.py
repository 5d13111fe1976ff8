from __future__ import annotations

from tests.support.postgres import Postgres


def test_gives_an_empty_database(postgres_url: str) -> None:
    from sqlalchemy import create_engine, inspect, text

    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        assert inspect(connection).get_table_names() == []
        connection.execute(text("CREATE TABLE todo (id int)"))
        assert connection.execute(text("SHOW server_encoding")).scalar() == "UTF8"
    engine.dispose()


def test_drops_a_database_that_is_still_in_use(postgres: Postgres) -> None:
    import psycopg
    import pytest

    with postgres.database() as url:
        connection = psycopg.connect(url.replace("+psycopg", "", 1))
        connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
