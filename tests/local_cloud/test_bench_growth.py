"""The benchmark's copies of documents are documents like any other."""

from __future__ import annotations

from pathlib import Path

from nsps.cloud.store import resource_id
from nsps_local.bench.growth import FIRST_COPY, Template, copies_of, grow, originals
from nsps_local.firestore.names import Key
from nsps_local.firestore.store import Record, Shape, Store
from nsps_local.firestore.values import Document

EVENT = "0a3c5b52-6f0c-5a5f-9a0b-0c3c1c3f0001"
ACCOUNT = 277_001
BY_OWNER = Shape(False, (("owner",),), None, (), False)


def _document(**fields: str | int) -> bytes:
    document = Document()
    for name, value in fields.items():
        if isinstance(value, int):
            document.fields[name].integer_value = value
        else:
            document.fields[name].string_value = value
    return bytes(document.SerializeToString())


def test_copies_are_of_other_events_and_accounts_and_are_in_the_indexes(tmp_path: Path) -> None:
    owner = f"account:{ACCOUNT}"
    store = Store(tmp_path / "state" / "firestore")
    db = store.database("projects/p/databases/d")
    resources = "handlers/state/resources"
    written = {
        Key(db, "events", "events", EVENT): _document(i_account=ACCOUNT, owner=owner, more="kept"),
        Key(db, "statuses", "statuses", f"{ACCOUNT}.State"): _document(event=EVENT),
        Key(db, "resources", resources, resource_id(f"account-{ACCOUNT}")): _document(owner=owner),
        Key(db, "scheduler", "scheduler", "tick"): _document(at="once"),
    }
    index = store.index(db, "resources", BY_OWNER)
    with store.transaction(store.clock.next()) as now:
        for key, data in written.items():
            store.put(key, None, Record(0, now, now, data))
    store.close()

    grow(tmp_path, copies_of(originals(tmp_path, [Template(EVENT, ACCOUNT)])), 4 + 3 * 5)

    store = Store(tmp_path / "state" / "firestore")
    keys = list(store.keys(db))
    assert (len(keys), len(set(keys))) == (19, 19)
    events = [Document.FromString(record.data).fields for _, record in store.group(db, "events")]
    accounts = sorted(each["i_account"].integer_value for each in events)
    assert accounts == [ACCOUNT, *range(FIRST_COPY, FIRST_COPY + 5)]
    assert {each["owner"].string_value for each in events} == {f"account:{n}" for n in accounts}
    assert {each["more"].string_value for each in events} == {"kept"}
    assert {key.id for key in keys if key.group == "resources"} == {
        resource_id(f"account-{number}") for number in accounts
    }
    (entries,) = store._sql.execute(
        "SELECT count(*) FROM entries WHERE ix = ?", (index,)
    ).fetchone()
    assert entries == 6
    store.close()
