"""An ordinary REST system, described in the deployment's own file; no Python is written for it.

The kit's parts do the work: ``Rest`` speaks, the answers are read by rules, the fields come from
the snapshot by its mapping. Where a system needs a decision, write a connector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nsps.connector.base import Call, Context, Enriched, State, StateConnector
from nsps.domain.fields import Source
from nsps.domain.outcome import Transient, Unclear
from nsps.domain.snapshot import Block
from nsps.transport.answers import AnswerRules, Meaning, member_of
from nsps.transport.rest import Rest, RestAnswer

from .authentication import SECRET, authentication
from .description import Reading, Request, Resource, Settings
from .template import filled, filled_path, word


class RestSystem(StateConnector[Settings]):
    """The resources of a description; a key is NAME/KEY."""

    settings_model = Settings
    shows_requests = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._resources = {resource.name: resource for resource in settings.resources}
        self._api = Rest(
            context.http,
            settings.url,
            authentication(settings, context),
            AnswerRules(settings.answers),
            settings.headers,
            hide=context.hide(SECRET),
        )

    @classmethod
    def reads(cls, settings: Settings) -> Iterator[tuple[str, Block]]:
        for resource in settings.resources:
            fields = {f"fields.{name}": each.source for name, each in resource.fields.items()}
            sources = [*fields.items(), *((f"when.{each}", each) for each in resource.when)]
            for where, source in sources:
                for block in Source.parse(source).blocks if source else ():
                    yield f"resources.{resource.name}.{where} ({source})", block

    @classmethod
    def needs_secrets(cls, settings: Settings) -> Iterator[tuple[str, str]]:
        if settings.authentication.type != "none":
            yield SECRET, f"authentication {settings.authentication.type} needs it"

    def check(self, call: Call) -> None:
        self._api.request("GET", self.settings.check, call).is_done()

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """What is described for an account; nothing where there is none."""
        if event.pb.account_info is None:
            return {}
        states = [(each, each.state(event.pb)) for each in self.settings.resources]
        return {f"{each.name}/{word(state[each.key])}": state for each, state in states if state}

    def read(self, key: str, call: Call) -> State | None:
        resource, values = self._named(key)
        reading = resource.read
        query = filled(reading.query, values)
        path = filled_path(reading.path, values)
        said = self._api.request("GET", path, call, query=query, rules=reading.answers)
        if said.rule.meaning is Meaning.REFUSED and said.rule in reading.answers:
            raise replace(said, reads=False).error()  # by a rule for this very request: for good
        if not said.is_done(Meaning.ABSENT):
            return None
        wanted = filled(reading.match, values)
        found = [item for item in self._items(reading, said.document()) if _fits(item, wanted)]
        if len(found) > 1:
            raise Transient(
                f"{resource.name}: {len(found)} items fit where one must: correct read.match"
            )
        return resource.state_of(values, found[0]) if found else None

    def create(self, key: str, state: State, call: Call) -> None:
        resource, _ = self._named(key)
        said = self._ask(resource.create, resource.with_all(state), call)
        if said.rule.meaning is Meaning.EXISTS and resource.change is not None:
            said = self._ask(resource.change, resource.with_all(state), call)
        self._written(said, key, state, call)

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        resource, _ = self._named(key)
        said = self._ask(resource.change or resource.create, resource.with_all(state), call)
        self._written(said, key, state, call)

    def delete(self, key: str, was: State | None, call: Call) -> None:
        resource, values = self._named(key)
        self._ask(resource.delete, values, call).is_done(Meaning.ABSENT)

    def _named(self, key: str) -> tuple[Resource, dict[str, Any]]:
        """The resource of a key, and the key as a field. Raises Transient."""
        name, _, rest = key.partition("/")
        if name not in self._resources:
            raise Transient(
                f"{key} was written when the settings described a resource {name}: describe it "
                "again, so that it can be read and removed"
            )
        return self._resources[name], self._resources[name].key_values(rest)

    def _ask(self, request: Request, values: Mapping[str, Any], call: Call) -> RestAnswer:
        return self._api.request(
            request.method,
            filled_path(request.path, values),
            call,
            body=filled(request.body, values),
            query=filled(request.query, values),
            rules=request.answers,
        )

    def _written(self, said: RestAnswer, key: str, state: State, call: Call) -> None:
        """Raises unless it is written and, with ``verify_after_write``, reads back the same."""
        said.is_done()
        if not self.settings.verify_after_write:
            said.written()
            return
        held = self.read(key, call) or {}
        differ = sorted(name for name, value in held.items() if value != state[name])
        if differ or not held:
            raise Unclear(
                f"{key}: written, and read back otherwise: {', '.join(differ) or 'not there'}: "
                "do values, format and at say how the system keeps it?"
            )

    def _items(self, reading: Reading, document: Any) -> Sequence[Any]:
        """What an answer holds. Raises Transient where it is not what it should be."""
        found: Any = [document]
        if reading.items:
            found = document if reading.items == "." else member_of(document, reading.items)
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise Transient(
                f"GET {self.settings.url}: there is no {'list' if reading.items else 'object'} in "
                "the answer: correct read.items"
            )
        return found


def _fits(item: Any, wanted: Mapping[str, Any]) -> bool:
    return all(word(member_of(item, place)) == word(value) for place, value in wanted.items())
