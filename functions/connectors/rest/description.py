"""What a deployment's file says of a system: where it is, who we are there, what is kept in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self
from urllib.parse import urljoin, urlsplit

from nsps.domain.fields import READ, Source
from nsps.domain.outcome import Terminal
from nsps.domain.snapshot import PbData
from nsps.transport.address import HttpSettings, check_web_address
from nsps.transport.answers import AnswerRule, is_there, member_of
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .template import ALL, FORMATS, MAPS, check_places, filled, formatted, places, word

_DERIVED = ("msisdn", "feature", "policy")
"""Sources that may say nothing of a subscriber in good order: one without a number."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SignIn(_Part):
    """The request that gives a token: a session's, or OAuth2's."""

    url: str = Field(
        description="https://HOST/PATH, where a token is asked for; /PATH on the host of the API"
    )
    body: dict[str, Any] = Field(
        description="a map, in which {NAME} stands for a member of the secret credentials"
    )
    form: bool = Field(False, description="true if the body is sent as a form, else false")
    token: str = Field("access_token", description="the token's place in the answer")
    seconds: str = Field("expires_in", description="the place of its lifetime; empty for none")


class Authentication(_Part):
    """How NSPS proves who it is. All but ``none`` need the secret ``credentials``."""

    type: Literal["none", "bearer", "basic", "api_key", "sign_in"] = Field(
        description="none, bearer, basic, api_key or sign_in"
    )
    header: str = Field("Authorization", description="the header that shows it")
    prefix: str = Field("Bearer ", description="what stands before a token that was signed in for")
    sign_in: SignIn | None = Field(None, description="{url, body}")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.type == "sign_in") != (self.sign_in is not None):
            raise ValueError("sign_in goes with type sign_in: write both or neither")
        if self.type == "api_key" and "header" not in self.model_fields_set:
            raise ValueError("header: missing: write the header of the key, like X-API-Key")
        return self


class Request(_Part):
    """One request; ``{field}`` in path, query and body stands for a field's value."""

    method: Literal["POST", "PUT", "PATCH", "DELETE"] = Field(
        description="POST, PUT, PATCH or DELETE"
    )
    path: str = Field(description="the path below url, like parties/{id}")
    query: dict[str, str] = Field({}, description="a map, {name: value}")
    body: dict[str, Any] | list[Any] | Literal["{*}", "{*:text}"] | None = Field(
        None, description="a map, a list, or {*}"
    )
    answers: tuple[AnswerRule, ...] = Field((), description="a list of {meaning, status, ...}")


class Reading(_Part):
    """How a resource is read (GET). ``items``: the list in which it is looked for (. for an answer
    that is a list); ``match``: what its members equal; ``object``: the place of the fields in it.
    Refused by a rule of its own is refused for good: it finds two where one may be."""

    path: str = Field(description="the path below url, like parties/{id}")
    query: dict[str, str] = Field({}, description="a map, {name: value}")
    items: str = Field("", description="the place of a list in the answer, or .")
    match: dict[str, str] = Field({}, description="a map, {place in the item: value}")
    object: str = Field("", description="the place of the object with the fields")
    answers: tuple[AnswerRule, ...] = Field((), description="a list of {meaning, status, ...}")


class FieldOf(_Part):
    """A field: ``from`` a source of the snapshot, or a ``value`` made of other fields.

    ``at``: its place in what is read; its own name unless given, empty where the answer lacks it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    source: str | None = Field(None, alias="from", description="a source, like sim_info.imsi")
    value: Any = Field(None, description="a text with {field}, or a value for all subscribers")
    values: dict[str, Any] = Field({}, description="a map, {PortaBilling's word: the system's}")
    format: str | None = Field(None, description=f"one of {', '.join(FORMATS)}")
    at: str | None = Field(None, description="the place in the answer of read")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        return {"from": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.source is None) == ("value" not in self.model_fields_set):
            raise ValueError("write from: SOURCE or value: VALUE, one of the two")
        if self.source is None and (self.values or self.format):
            raise ValueError("values and format go with from: write {NAME:FORMAT} in a value")
        if self.format and self.format not in FORMATS:
            raise ValueError(f"format: there is no {self.format}: write one of {list(FORMATS)}")
        if self.source is not None:
            Source.parse(self.source)
        return self

    def made(self, pb: PbData) -> Any:
        """The value that ``from`` gives; raises Terminal for one that cannot be written."""
        assert self.source is not None
        value = _value(Source.parse(self.source).value(pb))
        if not self.values:
            return formatted(value, self.format)
        if word(value) in self.values:
            return self.values[word(value)]
        if value is None:
            return None
        raise Terminal(f"{self.source} has a value that the setting values does not list: add it")

    def as_read(self, value: Any) -> Any:
        """What the system returned, in the type in which the field is written."""
        if self.source is None or self.values:
            return value
        kind = "text" if self.format else Source.parse(self.source).kind
        return _value(READ[kind](value) if kind in READ else value)


class Resource(_Part):
    """One thing that is kept of a subscriber. ``key``: the field that tells them apart; of it alone
    are ``read`` and ``delete`` made. ``when``: source -> the values with which it is to be there,
    or ``any``: with whatever value.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$", description="a name in small letters")
    key: str = Field(description="one of the fields")
    when: dict[str, list[Any] | Literal["any"]] = Field(
        {}, description="a map, {source: [values]}, or {source: any}"
    )
    fields: dict[str, FieldOf] = Field(min_length=1, description="a map, {field: source}")
    read: Reading = Field(description="{path}")
    create: Request = Field(description="{method, path, body}")
    change: Request | None = Field(None, description="{method, path, body}")
    delete: Request = Field(description="{method, path}")

    @field_validator("when")
    @classmethod
    def _sources(cls, when: dict[str, Any]) -> dict[str, Any]:
        for source in when:
            Source.parse(source)
        return when

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        made = {name for name, field in self.fields.items() if field.source is not None}
        if self.key not in made:
            raise ValueError(
                f"key: {self.key} is no field with a source: write one of {', '.join(sorted(made))}"
            )
        for name, field in self.fields.items():
            _checked(f"fields.{name}.value", field.value, made)
        for part, known in (
            ("read", {self.key, ALL}),
            ("create", {*self.fields, ALL}),
            ("change", {*self.fields, ALL}),
            ("delete", {self.key}),
        ):
            request = getattr(self, part)
            for member in ("path", "query", "body", "match"):
                _checked(f"{part}.{member}", getattr(request, member, None), known)
        if maps := [text for text in self.read.query.values() if text in MAPS]:
            raise ValueError(f"read.query: {maps[0]} is a map: write {{*:names}}")
        return self

    def state(self, pb: PbData) -> dict[str, Any] | None:
        """The fields as they should be; None where the resource should not be there."""
        source = Source.parse(str(self.fields[self.key].source))
        if not source.has_block(pb) or not all(
            _is_one_of(Source.parse(each).value(pb), values) for each, values in self.when.items()
        ):
            return None
        made = {name: field.made(pb) for name, field in self.fields.items() if field.source}
        if made[self.key] in (None, ""):
            if source.text.partition(".")[0] in _DERIVED:
                return None
            raise Terminal(f"{source.text} is missing: the key of {self.name} needs it")
        return {
            name: made[name] if field.source else filled(field.value, made)
            for name, field in self.fields.items()
            if not self._is_part_of_others(name)
        }

    def _is_part_of_others(self, name: str) -> bool:
        """Whether a field is neither read nor written itself, but within the value of another."""
        requests = [self.create, self.change or self.create]
        written = (each for one in requests for each in (one.path, one.query, one.body))
        return (
            self.fields[name].at == ""
            and name != self.key
            and name not in {place for each in written for place, _ in places(each)}
        )

    def key_values(self, key: str) -> dict[str, Any]:
        """What ``read`` and ``delete`` are made of, by the key alone."""
        return self.with_all({self.key: self.fields[self.key].as_read(key)})

    def with_all(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a template: the fields', and what stands for all of them."""
        read = (name for name, field in self.fields.items() if field.at != "" and name != self.key)
        return {**values, ALL: {name: values.get(name) for name in read}}

    def state_of(self, key: Mapping[str, Any], item: Any) -> dict[str, Any]:
        """The fields that an answer has, as they would be written; the key it was asked by."""
        state = {self.key: key[self.key]}
        item = member_of(item, self.read.object) if self.read.object else item
        for name, field in self.fields.items():
            place = name if field.at is None else field.at
            if place:
                value = member_of(item, place)
                state[name] = field.as_read(value) if is_there(value) else None
        return state


class Settings(HttpSettings):
    """A REST system, as the deployment describes it."""

    url: str = Field(description="The address below which all paths are, https://HOST/PATH.")
    authentication: Authentication = Field(
        description="How NSPS proves who it is, {type: none, bearer, basic, api_key or sign_in}."
    )
    check: str = Field(description="A path that answers with 2xx while the system is well.")
    resources: tuple[Resource, ...] = Field(
        min_length=1,
        description="What is kept of a subscriber there, each with name, key, fields and requests.",
    )
    answers: tuple[AnswerRule, ...] = Field(
        default=(),
        description="How answers are read that do not mean what their status says, the first "
        "that fits; a request's own come before these.",
    )
    headers: dict[str, str] = Field(default={}, description="Headers that every request carries.")
    verify_after_write: bool = Field(
        default=False,
        description="Whether what was written is read back at once and compared, for systems that "
        "hide failures in a 200. Without it a write must be answered with a JSON object, or 202 or "
        "204 with nothing.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sign_in = "authentication.sign_in.url"
        if self.sign_in_url:
            check_web_address(sign_in, self.sign_in_url, self.allow_http)
        for key, url in (("url", self.url), (sign_in, self.sign_in_url)):
            if urlsplit(url).query:
                raise ValueError(f"{key}: write it without a query: https://HOST[:PORT][/PATH]")
        names = [resource.name for resource in self.resources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"resources: two are named {name}: write another name")
        return self

    @property
    def sign_in_url(self) -> str:
        """Where a token is asked for; empty where none is."""
        sign_in = self.authentication.sign_in
        return urljoin(self.url, sign_in.url) if sign_in else ""


def _value(value: Any) -> Any:
    """An empty text is no value: many systems give back one for the other."""
    return None if value == "" else value


def _is_one_of(value: Any, wanted: list[Any] | Literal["any"]) -> bool:
    if wanted == "any":
        return value not in (None, "")
    return word(value) in map(word, wanted)


def _checked(where: str, template: Any, known: Mapping[str, Any] | set[str]) -> None:
    try:
        check_places(template, known)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
