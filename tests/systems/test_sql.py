"""What SQL connectors share, on each kind of database: composite keys, several tables, row sets."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps.runtime.secrets import SecretValue
from nsps.transport.sql.client import SqlClient
from nsps.transport.sql.table import Table
from nsps_local.daemons.mariadb import mariadb
from nsps_local.daemons.postgresql import postgresql
from nsps_testing.standard import make_call, make_context
from sqlalchemy import Connection, create_engine

SUBSCRIBER = Table(
    "subscriber",
    {"username": "text", "domain": "text", "ha1": "text", "quota": "integer"},
    key=("username", "domain"),
)
CHECKS = Table("radcheck", dict.fromkeys(("username", "attribute", "op", "value"), "text"))
WHO = {"username": "alice", "domain": "example.net"}

TABLES = (
    "CREATE TABLE subscriber (username varchar(64) NOT NULL, domain varchar(64) NOT NULL,"
    " ha1 varchar(20), quota numeric(12, 2), note varchar(20) DEFAULT 'theirs',"
    " UNIQUE (username, domain))",
    "CREATE TABLE radcheck (username varchar(64) NOT NULL, attribute varchar(64) NOT NULL,"
    " op char(2), value varchar(20), note varchar(20))",
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mariadb"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """(the URL for the client, the one for SQLAlchemy itself)."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'radius.db'}"
        yield url, url
    elif request.param == "postgresql":
        with postgresql() as (host, port):
            rest = f"postgres@{host}:{port}/postgres"
            yield f"postgresql://{rest}", f"postgresql+psycopg://{rest}"
    else:
        with mariadb() as (host, port):
            rest = f"root@{host}:{port}/radius"
            engine = create_engine(f"mysql+pymysql://root@{host}:{port}/mysql")
            with engine.connect() as connection:
                connection.exec_driver_sql("CREATE DATABASE radius CHARACTER SET utf8mb4")
            engine.dispose()
            yield f"mysql://{rest}", f"mysql+pymysql://{rest}"


@pytest.fixture
def admin(server: tuple[str, str]) -> Iterator[Connection]:
    engine = create_engine(server[1], isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for table, definition in zip(("subscriber", "radcheck"), TABLES, strict=True):
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
            connection.exec_driver_sql(definition)
        yield connection
    engine.dispose()


@pytest.fixture
def sql(server: tuple[str, str], admin: Connection) -> Iterator[SqlClient]:
    client = SqlClient(server[0], make_context().optional, [SUBSCRIBER, CHECKS])
    yield client
    client.close()


def check(attribute: str, value: str | None) -> dict[str, Any]:
    return {"attribute": attribute, "op": ":=", "value": value}


def all_rows(admin: Connection, table: str) -> list[Any]:
    return sorted(map(tuple, admin.exec_driver_sql(f"SELECT * FROM {table}").fetchall()), key=repr)


def test_a_row_with_a_key_of_two_columns(sql: SqlClient, admin: Connection) -> None:
    others = [{**WHO, "domain": "example.org"}, {**WHO, "username": "bob"}]
    for ha1, quota in (("one", 7), (None, 2**40 // 1000), ("two", None)):
        call = make_call()
        with sql.writing(call) as session:
            for who in (WHO, *others):
                session.upsert(SUBSCRIBER, {**who, "ha1": ha1, "quota": quota})
        assert call.wrote
        with sql.reading(make_call()) as session:
            assert session.row(SUBSCRIBER, WHO) == {**WHO, "ha1": ha1, "quota": quota}
            assert len(session.rows(SUBSCRIBER, {"username": "alice"})) == 2
    call = make_call()
    with sql.writing(call) as session:
        session.update(SUBSCRIBER, WHO, {"ha1": "three"})
        session.delete(SUBSCRIBER, others[1])
    with sql.reading(call) as session:
        assert session.row(SUBSCRIBER, others[1]) is None
        assert [row["ha1"] for row in session.rows(SUBSCRIBER, {"ha1": "three"})] == ["three"]
    assert [row[4] for row in all_rows(admin, "subscriber")] == ["theirs", "theirs"]


def test_some_columns_of_a_row_leave_the_others(sql: SqlClient) -> None:
    with sql.writing(make_call()) as session:
        session.upsert(SUBSCRIBER, {**WHO, "ha1": "one", "quota": 7})
        session.upsert(SUBSCRIBER, {**WHO, "quota": 8})
        session.upsert(SUBSCRIBER, WHO)
        assert session.row(SUBSCRIBER, WHO) == {**WHO, "ha1": "one", "quota": 8}


def test_keys_page_by_page(sql: SqlClient) -> None:
    keys = [(user, domain) for user in ("a", "b", "c") for domain in ("x.net", "y.net")]
    with sql.writing(make_call()) as session:
        for user, domain in reversed(keys):
            row = {"username": user, "domain": domain, "ha1": "gone" if user == "b" else None}
            session.upsert(SUBSCRIBER, row)
    with sql.reading(make_call()) as session:
        found: list[tuple[Any, ...]] = []
        while page := session.keys(SUBSCRIBER, found[-1] if found else (), 3):
            found += page
        assert found == keys
        but = session.keys(SUBSCRIBER, keys[1], 9, but={"ha1": "gone"})
        assert but == keys[4:]


def test_the_rows_of_one_subscriber_are_replaced(sql: SqlClient, admin: Connection) -> None:
    admin.exec_driver_sql("INSERT INTO radcheck VALUES ('alice', 'Kept', ':=', '1', 'theirs')")
    for _ in range(2):
        admin.exec_driver_sql("INSERT INTO radcheck VALUES ('alice', 'Twice', ':=', '1', NULL)")
    admin.exec_driver_sql("INSERT INTO radcheck VALUES ('alice', 'Old', NULL, NULL, NULL)")
    admin.exec_driver_sql("INSERT INTO radcheck VALUES ('bob', 'Old', ':=', '1', NULL)")
    rows = [check("Kept", "1"), check("Twice", "1"), check("New", None)]
    writes = []
    for _ in range(2):
        call = make_call()
        with sql.writing(call) as session:
            session.replace(CHECKS, {"username": "alice"}, rows)
        writes.append(call.wrote)
    assert writes == [True, False]
    assert all_rows(admin, "radcheck") == [
        ("alice", "Kept", ":=", "1", "theirs"),
        ("alice", "New", ":=", None, None),
        ("alice", "Twice", ":=", "1", None),
        ("bob", "Old", ":=", "1", None),
    ]
    with sql.writing(make_call()) as session:
        session.replace(CHECKS, {"username": "alice"}, [])
    assert [row[0] for row in all_rows(admin, "radcheck")] == ["bob"]


def test_several_tables_are_written_together_or_not_at_all(
    sql: SqlClient, admin: Connection
) -> None:
    call = make_call()
    with pytest.raises(Terminal) as refused, sql.writing(call) as session:
        session.upsert(SUBSCRIBER, {**WHO, "ha1": "one", "quota": 7})
        rows = [check("A", "1"), {**check("B", "hunter22"), "attribute": None}]
        session.replace(CHECKS, {"username": "alice"}, rows)
    assert "hunter22" not in "".join(traceback.format_exception(refused.value))
    assert not call.wrote
    assert all_rows(admin, "subscriber") == all_rows(admin, "radcheck") == []


def test_a_connector_that_fails_in_between_changes_nothing(
    sql: SqlClient, admin: Connection
) -> None:
    call = make_call()
    with pytest.raises(ZeroDivisionError), sql.writing(call) as session:
        session.upsert(SUBSCRIBER, {**WHO, "ha1": "one"})
        _ = 1 // 0
    assert not call.wrote and all_rows(admin, "subscriber") == []
    sql.check(make_call())


def test_what_is_not_there_is_not_written(sql: SqlClient) -> None:
    call = make_call()
    with sql.writing(call) as session:
        session.update(SUBSCRIBER, WHO, {"ha1": "x"})
        session.delete(SUBSCRIBER, WHO)
    assert not call.wrote
    with pytest.raises(ValueError, match="which rows"), sql.writing(call) as session:
        session.delete(SUBSCRIBER, {})


def test_a_secret_is_written_and_never_shown(sql: SqlClient, admin: Connection) -> None:
    secret = SecretValue("hunter22-hunter22", "ha1")
    with sql.writing(make_call()) as session:
        session.upsert(SUBSCRIBER, {**WHO, "ha1": secret})
        session.replace(
            CHECKS, {"username": "alice"}, [{**check("Password", None), "value": secret}]
        )
    assert (
        all_rows(admin, "subscriber")[0][2] == all_rows(admin, "radcheck")[0][3] == secret.reveal()
    )
    longer = SecretValue("hunter22" * 9 + "\0", "ha1")
    with pytest.raises(Terminal) as refused, sql.writing(make_call()) as session:
        session.upsert(SUBSCRIBER, {**WHO, "ha1": longer})
    assert "hunter22" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("DROP TABLE radcheck", "no table radcheck: create it"),
        ("ALTER TABLE radcheck RENAME COLUMN op TO operator", "no column op"),
    ],
)
def test_every_table_is_looked_at(
    sql: SqlClient, admin: Connection, change: str, message: str
) -> None:
    admin.exec_driver_sql(change)
    with pytest.raises(Transient, match=message) as error:
        sql.check(make_call())
    assert not isinstance(error.value, NoAnswer)
    admin.exec_driver_sql("DROP TABLE IF EXISTS radcheck")
    admin.exec_driver_sql(TABLES[1])
    sql.check(make_call())


def test_a_key_of_which_only_a_part_is_unique_is_no_key(sql: SqlClient, admin: Connection) -> None:
    admin.exec_driver_sql("DROP TABLE subscriber")
    admin.exec_driver_sql(TABLES[0].replace("UNIQUE (username, domain)", "UNIQUE (domain)"))
    for step in (sql.check, lambda call: _write(sql, call)):
        with pytest.raises(Transient) as error:
            step(make_call())
        assert not isinstance(error.value, NoAnswer)
    assert all_rows(admin, "subscriber") == []


def _write(sql: SqlClient, call: Any) -> None:
    with sql.writing(call) as session:
        session.upsert(SUBSCRIBER, {**WHO, "ha1": "one"})


def test_tables_that_are_created(tmp_path: Path) -> None:
    table = Table(
        "lines",
        {"imsi": "text", "i_account": "integer", "barred": "flag", "rate": "amount"},
        key=("imsi", "i_account"),
        updated_at="updated_at",
        create=True,
    )
    client = SqlClient(f"sqlite:///{tmp_path / 'lines.db'}", make_context().optional, [table])
    row = {"imsi": "001010000000003", "i_account": 7, "barred": True, "rate": 0.1}
    with client.writing(make_call()) as session:
        session.upsert(table, row)
        assert session.rows(table, {}) == [row]
    client.close()
