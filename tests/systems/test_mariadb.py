"""The database connector against a real MariaDB."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps_local.daemons.mariadb import mariadb
from nsps_testing.standard import (
    ChaosProxy,
    StateStandardTests,
    enriched,
    make_call,
    make_context,
)
from nsps_testing.waiting import wait_for
from sqlalchemy import URL, Connection, create_engine

from functions.connectors.database.connector import Database
from functions.connectors.database.settings import Settings
from tests.systems.database_kit import (
    PASSWORD,
    Address,
    DatabaseTests,
    PasswordTests,
    ServerTests,
    TheirTableTests,
    table_of_theirs,
)


@contextmanager
def admin(address: Address, database: str = "subscribers") -> Iterator[Connection]:
    host, port = address
    url = URL.create("mysql+pymysql", "root", host=host, port=port, database=database)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    with mariadb() as address:
        with admin(address, "mysql") as sql:
            sql.exec_driver_sql(f"CREATE USER nsps@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
            sql.exec_driver_sql("GRANT ALL ON subscribers.* TO nsps@'127.0.0.1'")
            sql.exec_driver_sql("CREATE DATABASE subscribers CHARACTER SET utf8mb4")
        yield address


@pytest.fixture
def sql(server: Address) -> Iterator[Connection]:
    with admin(server) as connection:
        yield connection


def test_temporary_tables_are_where_no_other_server_clears_them(sql: Connection) -> None:
    folder, data = sql.exec_driver_sql("SELECT @@tmpdir, @@datadir").one()
    assert Path(folder).parent == Path(data).parent


class _OnMariadb(DatabaseTests):
    scheme = "mariadb"

    @pytest.fixture
    def system(self, server: Address, sql: Connection) -> Iterator[ChaosProxy]:
        sql.exec_driver_sql("DROP DATABASE subscribers")
        sql.exec_driver_sql("CREATE DATABASE subscribers CHARACTER SET utf8mb4")
        sql.exec_driver_sql("USE subscribers")
        self.prepare(sql)
        with ChaosProxy(server) as proxy:
            yield proxy

    def rows(self, sql: Any, query: str) -> Sequence[Any]:
        return list(sql.exec_driver_sql(query).fetchall())


class TestMariadb(_OnMariadb, ServerTests, PasswordTests, StateStandardTests):
    pings_first = True

    def test_the_row_is_there(self, connector: Database, sql: Connection) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        call = make_call()
        connector.create(key, state, call)
        assert call.wrote
        rows = sql.exec_driver_sql(
            "SELECT i_account, name, imsi, msisdn, product, status, updated_at IS NOT NULL"
            " FROM subscribers"
        ).fetchall()
        name = "Zoë O'Hara; DROP TABLE subscribers"
        plan = "Přípojka 5G 🛜"
        assert rows == [(1000889, name, "001010000000003", "420777000003", plan, "active", 1)]

    def test_a_row_that_is_locked_is_waited_for_until_the_deadline(
        self, connector: Database, server: Address
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        with admin(server) as other:
            other.exec_driver_sql("BEGIN")
            other.exec_driver_sql("SELECT * FROM subscribers FOR UPDATE").fetchall()
            began = time.monotonic()
            with pytest.raises(Transient, match="in time") as error:
                connector.change(key, state, state, make_call(1))
            assert time.monotonic() - began < 10
            other.exec_driver_sql("ROLLBACK")
        assert not isinstance(error.value, NoAnswer)
        connector.change(key, state, state, make_call())

    @pytest.mark.parametrize("turn", range(1, 14, 3))
    def test_a_hang_anywhere_in_the_first_session_ends_with_the_deadline(
        self, connector: Database, system: ChaosProxy, turn: int
    ) -> None:
        self.hangs_at(connector, system, turn)

    def test_a_session_that_is_ended_in_between_is_not_noticed(
        self, connector: Database, sql: Connection
    ) -> None:
        connector.check(make_call())
        sql.exec_driver_sql("KILL USER nsps")
        self.act(connector, make_call())

    def test_a_session_that_is_ended_at_work_is_replaced(
        self, connector: Database, sql: Connection, server: Address
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        with ThreadPoolExecutor(1) as pool, admin(server) as other:
            other.exec_driver_sql("BEGIN")
            other.exec_driver_sql("SELECT * FROM subscribers FOR UPDATE").fetchall()
            write = pool.submit(connector.change, key, state, state, make_call(20))
            working = "SELECT 1 FROM information_schema.processlist WHERE LEFT(info, 6) = 'INSERT'"
            wait_for(lambda: sql.exec_driver_sql(working).first())
            sql.exec_driver_sql("KILL USER nsps")
            error = write.exception(10)
            other.exec_driver_sql("ROLLBACK")
        assert isinstance(error, NoAnswer) and "privileges" not in str(error)
        connector.change(key, state, state, make_call())

    def test_a_node_that_became_read_only_is_left(
        self, connector: Database, sql: Connection
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        writes: list[Callable[[], object]] = [
            lambda: connector.check(make_call()),
            lambda: connector.create(key, state, make_call()),
            lambda: connector.delete(key, connector.read(key, make_call()), make_call()),
        ]
        for write in writes:
            pooled = connector._sql._transactions.engine.pool
            sql.exec_driver_sql("SET GLOBAL read_only = ON")
            try:
                assert connector.read(key, make_call()) is not None
                error = self.provoke(write)
            finally:
                sql.exec_driver_sql("SET GLOBAL read_only = OFF")
            assert isinstance(error, Transient) and not isinstance(error, NoAnswer)
            assert "1290" in str(error) and "read-only" in str(error)
            assert connector._sql._transactions.engine.pool is not pooled
            write()

    def test_without_privileges_it_waits_for_them(
        self, connector: Database, sql: Connection, server: Address
    ) -> None:
        connector.check(make_call())
        sql.exec_driver_sql("CREATE OR REPLACE USER weak@'127.0.0.1'")
        host, port = server
        url = f"mysql://weak@{host}:{port}/subscribers"
        for rights in ("SELECT", "DELETE", "INSERT", "UPDATE"):
            weak = Database(Settings(url=url), make_context({}))
            with pytest.raises(Transient) as error:
                weak.check(make_call())
            assert not isinstance(error.value, NoAnswer), rights
            weak.close()
            sql.exec_driver_sql(f"GRANT {rights} ON subscribers.subscribers TO weak@'127.0.0.1'")
        weak = Database(Settings(url=url), make_context({}))
        weak.check(make_call())
        weak.close()


class TestRowPerSimInATableOfTheirs(_OnMariadb, TheirTableTests):
    """The operator's own table: other types, constraints; rows are marked."""

    table = "sims"

    def prepare(self, sql: Connection) -> None:
        sql.exec_driver_sql(
            "CREATE TABLE sims (id int AUTO_INCREMENT PRIMARY KEY, card decimal(15) UNIQUE,"
            " customer varchar(20), number varchar(15) UNIQUE, blocked text,"
            " state char(12) NOT NULL, mail varchar(80) CHECK (mail <> 'x@example.net'),"
            " note text DEFAULT 'theirs')"
        )

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        url = f"mysql://nsps@{system.host}:{system.port}/subscribers"
        return table_of_theirs(url, "subscribers.sims", "card")

    def test_a_value_that_is_cut_without_a_word_is_refused(
        self, connector: Database, sql: Connection
    ) -> None:
        sql.exec_driver_sql("SET GLOBAL sql_mode = ''")
        try:
            fresh = self.make(connector.settings.model_dump())
            [(key, state)] = fresh.desired(enriched(self.pb)).items()
            error = self.provoke(
                lambda: fresh.create(key, {**state, "state": "x" * 13}, make_call())
            )
            fresh.close()
        finally:
            sql.exec_driver_sql("SET GLOBAL sql_mode = DEFAULT")
        assert isinstance(error, Terminal) and "does not keep column state" in str(error)
        assert sql.exec_driver_sql("SELECT count(*) FROM sims").scalar() == 0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("DROP TABLE sims", "no table subscribers.sims: create it"),
            ("ALTER TABLE sims DROP COLUMN mail", "no column mail"),
            ("ALTER TABLE sims DROP INDEX card", "no unique index"),
            ("ALTER TABLE sims MODIFY number bigint", "leading zeros"),
            ("ALTER TABLE sims ENGINE = MyISAM", "ENGINE = InnoDB"),
        ],
    )
    def test_a_table_that_is_not_as_it_must_be(
        self, sql: Connection, system: ChaosProxy, change: str, message: str
    ) -> None:
        sql.exec_driver_sql(change)
        connector = self.make(self.settings(system))
        for step in (
            lambda: connector.check(make_call()),
            lambda: self.act(connector, make_call()),
        ):
            error = self.provoke(step)
            assert isinstance(error, Transient) and message in str(error)
        connector.close()
