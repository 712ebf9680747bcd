"""The database connector against a real PostgreSQL."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps_local.daemons.postgresql import PostgresqlNode, postgresql, postgresql_cluster
from nsps_testing.standard import (
    ChaosProxy,
    StateStandardTests,
    enriched,
    make_call,
    make_context,
)
from nsps_testing.waiting import wait_for

from functions.connectors.database.connector import Database
from functions.connectors.database.settings import Settings
from tests.systems.database_kit import (
    PASSWORD,
    Address,
    DatabaseTests,
    PasswordTests,
    ServerTests,
    TheirTableTests,
    snapshot,
    table_of_theirs,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    with postgresql() as address:
        with admin(address) as session:
            session.execute("CREATE DATABASE subscribers")
            session.execute(f"CREATE USER nsps PASSWORD '{PASSWORD}'")
        yield address


def admin(address: Address, database: str = "postgres") -> psycopg.Connection[Any]:
    host, port = address
    return psycopg.connect(host=host, port=port, user="postgres", dbname=database, autocommit=True)


@pytest.fixture
def sql(server: Address) -> Iterator[psycopg.Connection[Any]]:
    with admin(server, "subscribers") as session:
        yield session


class _OnPostgresql(DatabaseTests):
    scheme = "postgresql"

    @pytest.fixture
    def system(self, server: Address, sql: psycopg.Connection[Any]) -> Iterator[ChaosProxy]:
        sql.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION nsps")
        self.prepare(sql)
        with ChaosProxy(server) as proxy:
            yield proxy

    def rows(self, sql: Any, query: str) -> Sequence[Any]:
        return list(sql.execute(query).fetchall())


class TestPostgresql(_OnPostgresql, ServerTests, PasswordTests, StateStandardTests):
    pings_first = True
    deadline = 2.0  # libpq knows no shorter limit for a new connection

    def test_the_row_is_there(self, connector: Database, sql: psycopg.Connection[Any]) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        row = sql.execute(
            "SELECT i_account, name, imsi, msisdn, status, updated_at > now() - interval '1 min'"
            " FROM subscribers"
        ).fetchall()
        name = "Zoë O'Hara; DROP TABLE subscribers"
        assert row == [(1000889, name, "001010000000003", "420777000003", "active", True)]

    def test_a_row_that_is_locked_is_waited_for_until_the_deadline(
        self, connector: Database, server: Address
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        with admin(server, "subscribers") as other, other.transaction():
            other.execute("SELECT * FROM subscribers FOR UPDATE")
            began = time.monotonic()
            with pytest.raises(Transient, match="in time") as error:
                connector.change(key, state, state, make_call(1))
            assert time.monotonic() - began < 10
        assert not isinstance(error.value, NoAnswer)
        connector.change(key, state, state, make_call())

    @pytest.mark.parametrize("turn", [4, 6])
    def test_a_hang_anywhere_in_the_first_session_ends_with_the_deadline(
        self, connector: Database, system: ChaosProxy, turn: int
    ) -> None:
        self.hangs_at(connector, system, turn)

    def test_a_backend_that_is_ended_in_between_is_not_noticed(
        self, connector: Database, sql: psycopg.Connection[Any]
    ) -> None:
        connector.check(make_call())
        sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = 'subscribers' AND pid <> pg_backend_pid()"
        )
        self.act(connector, make_call())

    def test_a_table_that_two_instances_create_at_once(
        self, connector: Database, sql: psycopg.Connection[Any], system: ChaosProxy
    ) -> None:
        for _ in range(5):
            sql.execute("DROP TABLE IF EXISTS subscribers")
            instances = [self.make(self.settings(system)) for _ in range(4)]
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda instance: instance.check(make_call()), instances))
            for instance in instances:
                instance.close()

    def test_a_node_that_became_read_only_is_left(
        self, connector: Database, sql: psycopg.Connection[Any]
    ) -> None:
        """New connections lead to the new primary; those in the pool stay with the old one."""
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        writes: list[Callable[[], object]] = [
            lambda: connector.check(make_call()),
            lambda: connector.create(key, state, make_call()),
            lambda: connector.delete(key, connector.read(key, make_call()), make_call()),
        ]
        for write in writes:
            connector.close()
            sql.execute("ALTER ROLE nsps SET default_transaction_read_only = on")
            try:
                assert connector.read(key, make_call()) is not None
            finally:
                sql.execute("ALTER ROLE nsps RESET default_transaction_read_only")
            error = self.provoke(write)
            assert isinstance(error, Transient) and not isinstance(error, NoAnswer)
            assert "25006" in str(error) and "privileges" not in str(error)
            write()

    def test_a_backend_that_is_ended_at_work_is_replaced(
        self, connector: Database, sql: psycopg.Connection[Any], server: Address
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        with ThreadPoolExecutor(1) as pool, admin(server, "subscribers") as other:
            with other.transaction():
                other.execute("SELECT * FROM subscribers FOR UPDATE")
                write = pool.submit(connector.change, key, state, state, make_call(20))
                ended = (
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = 'nsps' AND wait_event_type = 'Lock'"
                )
                wait_for(lambda: sql.execute(ended).fetchall())
                error = write.exception(10)
            assert isinstance(error, NoAnswer) and "privileges" not in str(error)
        connector.change(key, state, state, make_call())

    def test_a_time_limit_ends_with_its_transaction(
        self, connector: Database, sql: psycopg.Connection[Any]
    ) -> None:
        """Behind a transaction pooler the connection is another client's after that."""
        connector.check(make_call())
        with connector._sql._transactions.engine.connect() as pooled:
            rows = pooled.exec_driver_sql(
                "SELECT current_setting('statement_timeout'), xact_start = query_start"
                " FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            ).fetchall()
        assert rows == [("0", True)]

    def test_without_privileges_it_waits_for_them(
        self, system: ChaosProxy, sql: psycopg.Connection[Any]
    ) -> None:
        sql.execute("ALTER SCHEMA public OWNER TO postgres; GRANT USAGE ON SCHEMA public TO nsps")
        for table, message in (("other", "CREATE"), ("subscribers", "42501")):
            sql.execute(f"CREATE TABLE {table} (i_account int PRIMARY KEY)")
            self.assert_waits(system, message)
        for rights in ("SELECT", "DELETE", "INSERT"):  # and UPDATE is missing still
            sql.execute(f"GRANT {rights} ON subscribers TO nsps")
            self.assert_waits(system, "42501")

    def test_a_check_leaves_nothing_behind(
        self, connector: Database, sql: psycopg.Connection[Any]
    ) -> None:
        connector.check(make_call())
        sql.execute(
            "CREATE TABLE log (what text); GRANT INSERT ON log TO nsps;"
            "CREATE FUNCTION note() RETURNS trigger AS $$ BEGIN"
            " INSERT INTO log VALUES (TG_OP); RETURN NULL; END $$ LANGUAGE plpgsql;"
            "CREATE TRIGGER note AFTER INSERT OR DELETE ON subscribers"
            " FOR EACH STATEMENT EXECUTE FUNCTION note()"
        )
        connector.check(make_call())
        assert sql.execute("SELECT * FROM log").fetchall() == []
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        assert sql.execute("SELECT * FROM log").fetchall() == [("INSERT",)]

    def assert_waits(self, system: ChaosProxy, message: str) -> None:
        connector = self.make(
            {
                **self.settings(system),
                "columns": {"i_account": "account_info.i_account"},
                "updated_at": "",
            }
        )
        error = self.provoke(lambda: connector.check(make_call()))
        assert isinstance(error, Transient) and message in str(error)
        connector.close()


class TestRowPerSimInATableOfTheirs(_OnPostgresql, TheirTableTests):
    """The operator's own table: another schema, other types, constraints; rows are marked."""

    table = "crm.sims"

    def prepare(self, sql: psycopg.Connection[Any]) -> None:
        sql.execute(
            "DROP SCHEMA IF EXISTS crm CASCADE; CREATE SCHEMA crm; CREATE TABLE crm.sims ("
            " id serial PRIMARY KEY, imsi numeric(15) UNIQUE, customer varchar(20),"
            " number varchar(15) UNIQUE, blocked text, state varchar(12) NOT NULL,"
            " mail text CHECK (mail <> 'x@example.net'), note text DEFAULT 'theirs')"
        )

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        url = f"postgresql://postgres@{system.host}:{system.port}/subscribers"
        return table_of_theirs(url, "crm.sims", "imsi")

    def test_a_key_without_a_unique_index_can_be_corrected(
        self, connector: Database, sql: psycopg.Connection[Any]
    ) -> None:
        sql.execute("ALTER TABLE crm.sims DROP CONSTRAINT sims_imsi_key")
        error = self.provoke(lambda: self.act(connector, make_call()))
        assert isinstance(error, Transient) and "42P10" in str(error)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("DROP TABLE crm.sims", "no table crm.sims: create it"),
            ("ALTER TABLE crm.sims DROP COLUMN mail", "no column mail"),
        ],
    )
    def test_a_table_that_is_not_as_the_settings_say(
        self, sql: psycopg.Connection[Any], system: ChaosProxy, change: str, message: str
    ) -> None:
        sql.execute(change)
        connector = self.make(self.settings(system))
        error = self.provoke(lambda: connector.check(make_call()))
        assert isinstance(error, Transient) and message in str(error)
        connector.close()


class TestWhatTheTableMakesOfAValue:
    """A value that does not come back as it was written is refused, with the column named."""

    KEY = "001010000000003"

    @pytest.fixture
    def url(self, server: Address, sql: psycopg.Connection[Any]) -> str:
        sql.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return "postgresql://postgres@{}:{}/subscribers".format(*server)

    def connect(self, url: str, **settings: Any) -> Database:
        return Database(Settings(url=url, **settings), make_context({}))

    def write(self, connector: Database, **account: Any) -> tuple[str, Any]:
        [(key, state)] = connector.desired(enriched(snapshot(**account))).items()
        connector.create(key, state, make_call())
        return key, state

    def test_a_number_for_an_imsi(self, url: str, sql: psycopg.Connection[Any]) -> None:
        sql.execute(
            "CREATE TABLE lines (imsi bigint PRIMARY KEY, msisdn bigint, status text,"
            " updated_at timestamp)"
        )
        columns = {"imsi": "sim_info.imsi", "msisdn": "msisdn", "status": "status"}
        connector = self.connect(url, table="lines", key="imsi", columns=columns)
        for step in (
            lambda: connector.check(make_call()),
            lambda: self.write(connector),
            lambda: connector.read(self.KEY, make_call()),
            lambda: connector.keys("", 10, make_call()),
        ):
            with pytest.raises(Transient, match=r"column imsi \(BIGINT\), msisdn \(BIGINT\) would"):
                step()
        assert sql.execute("SELECT * FROM lines").fetchall() == []
        sql.execute("ALTER TABLE lines ALTER imsi TYPE text, ALTER msisdn TYPE varchar(15)")
        self.write(connector)
        assert connector.keys("", 10, make_call()) == [self.KEY]
        connector.close()

    @pytest.mark.parametrize("key", ["i_account", "imsi"])
    def test_the_padding_of_char_is_not_part_of_the_value(
        self, url: str, sql: psycopg.Connection[Any], key: str
    ) -> None:
        sql.execute(
            "CREATE TABLE subs (i_account bigint UNIQUE, imsi char(20) UNIQUE, status char(12),"
            " updated_at timestamptz)"
        )
        columns = {"i_account": "account_info.i_account", "imsi": "sim_info.imsi"}
        connector = self.connect(
            url,
            table="subs",
            key=key,
            columns={**columns, "status": "status"},
            on_release="mark",
        )
        ident, state = self.write(connector)
        assert connector.read(ident, make_call()) == state
        assert connector.read_many([ident], make_call()) == {ident: state}
        assert connector.keys("", 10, make_call()) == [ident]
        assert connector.keys(ident, 10, make_call()) == []
        connector.delete(ident, connector.read(ident, make_call()), make_call())
        assert connector.read(ident, make_call()) is None
        assert connector.read_many([ident], make_call()) == {}
        assert connector.keys("", 10, make_call()) == []
        assert sql.execute("SELECT trim(status) FROM subs").fetchall() == [("removed",)]
        connector.close()

    def test_a_key_is_ours_in_whatever_number_it_is_kept(
        self, url: str, sql: psycopg.Connection[Any]
    ) -> None:
        sql.execute("CREATE TABLE accounts (i_account numeric(20, 2) PRIMARY KEY)")
        connector = self.connect(
            url,
            table="accounts",
            columns={"i_account": "account_info.i_account"},
            updated_at="",
        )
        ident, _ = self.write(connector)
        assert connector.keys("", 10, make_call()) == [ident] == ["1000889"]
        connector.close()

    @pytest.mark.parametrize(
        ("change", "column"),
        [
            ("NEW.mail := upper(NEW.mail)", "mail"),
            ("NEW.owner := NEW.owner + 1; NEW.mail := NULL", "owner, mail"),
            ("NEW.imsi := ltrim(NEW.imsi, '0')", "imsi"),
        ],
    )
    def test_a_trigger_that_changes_it(
        self, url: str, sql: psycopg.Connection[Any], change: str, column: str
    ) -> None:
        sql.execute(
            "CREATE TABLE sims (imsi text PRIMARY KEY, owner real, mail text);"
            f"CREATE FUNCTION other() RETURNS trigger AS $$ BEGIN {change}; RETURN NEW; END $$"
            " LANGUAGE plpgsql;"
            "CREATE TRIGGER other BEFORE INSERT OR UPDATE ON sims"
            " FOR EACH ROW EXECUTE FUNCTION other()"
        )
        columns = {
            "imsi": "sim_info.imsi",
            "owner": "account_info.i_account",
            "mail": "account_info.email",
        }
        connector = self.connect(url, table="sims", key="imsi", columns=columns, updated_at="")
        with pytest.raises(Terminal, match=f"does not keep column {column} as") as refusal:
            self.write(connector)
        assert "zoe" not in str(refusal.value).lower() and self.KEY not in str(refusal.value)
        assert sql.execute("SELECT * FROM sims").fetchall() == []
        connector.close()

    def test_a_number_that_is_rounded(self, url: str, sql: psycopg.Connection[Any]) -> None:
        sql.execute("CREATE TABLE sims (imsi text PRIMARY KEY, owner real)")
        columns = {"imsi": "sim_info.imsi", "owner": "account_info.i_account"}
        connector = self.connect(url, table="sims", key="imsi", columns=columns, updated_at="")
        ident, state = self.write(connector)
        with pytest.raises(Terminal, match="column owner"):
            self.write(connector, i_account=16_777_217)
        assert connector.read(ident, make_call()) == state  # as it was
        connector.close()


class _Events:
    """Rows written one after the other, each again until it is there."""

    def __init__(self, connector: Database) -> None:
        self._connector = connector
        [self._state] = connector.desired(enriched(snapshot())).values()
        self._ended = threading.Event()
        self.written = self.failed = 0

    def write(self, key: int, connector: Database, seconds: float = 10) -> None:
        connector.create(str(key), self._state, make_call(seconds))

    @contextmanager
    def flowing(self) -> Iterator[None]:
        self._ended.clear()
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(self._flow)
            try:
                yield
            finally:
                self._ended.set()
            work.result(20)

    def wait_until_written(self, more: int) -> None:
        goal = self.written + more
        wait_for(lambda: self.written >= goal)

    def wait_until_refused(self) -> None:
        before = self.failed
        wait_for(lambda: self.failed > before)

    def _flow(self) -> None:
        while not self._ended.is_set():
            try:
                self.write(self.written, self._connector)
                self.written += 1
            except Transient:
                self.failed += 1
                self._ended.wait(0.05)


def hosts(*addresses: Address) -> str:
    each = "&".join(f"host={host}:{port}" for host, port in addresses)
    return f"postgresql://postgres@/postgres?{each}&target_session_attrs=read-write"


def replicate(primary: PostgresqlNode) -> None:
    """From now on a commit is confirmed when the standby has it too."""
    with admin(primary.address) as session:
        session.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        session.execute("SELECT pg_reload_conf()")
        query = "SELECT sync_state FROM pg_stat_replication"
        wait_for(lambda: session.execute(query).fetchall() == [("sync",)])


def test_a_switchover_and_back_and_a_standby_that_the_pool_still_points_to() -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(postgresql_cluster()) for _ in range(2))

        def start(node: PostgresqlNode, stop: signal.Signals = signal.SIGINT) -> ExitStack:
            runs = stack.enter_context(ExitStack())
            runs.enter_context(node.running(stop))
            return runs

        def connect(url: str, **settings: Any) -> Database:
            connector = Database(Settings(url=url, **settings), make_context({}))
            stack.callback(connector.close)
            return connector

        runs = start(first, stop=signal.SIGQUIT)  # first a crash, then as planned
        url = hosts(first.address, second.address)
        events = _Events(connect(url, create_table=True))
        for primary, standby in ((first, second), (second, first)):
            standby.follow(primary)
            standby_runs = start(standby)
            replicate(primary)
            with events.flowing():
                events.wait_until_written(20)
                runs.close()
                events.wait_until_refused()
                with admin(standby.address) as session:
                    session.execute("SELECT pg_promote()")
                events.wait_until_written(20)
            with admin(standby.address) as session:
                rows = session.execute("SELECT i_account FROM subscribers ORDER BY 1").fetchall()
            assert rows == [(number,) for number in range(events.written)]
            runs = standby_runs

        second.follow(first)
        start(second)
        events.write(1001, connect(hosts(second.address, first.address)))
        with ChaosProxy(second.address) as address:
            moved = connect("postgresql://postgres@{}:{}/postgres".format(*address.address))
            assert moved.read("0", make_call()) is not None
            address.target = first.address  # the pool's connection stays with the standby
            with pytest.raises(Transient, match="25006") as error:
                events.write(1002, moved)
            assert not isinstance(error.value, NoAnswer)
            events.write(1002, moved)
            address.hang()
            events.write(1003, connect(hosts(address.address, first.address)), seconds=4)
