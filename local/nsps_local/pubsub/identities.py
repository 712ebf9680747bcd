"""The accounts of a deployment and whom its functions admit: what the service asks IAM."""

from __future__ import annotations

from pathlib import Path

from nsps.runtime.mistakes import sentences
from pydantic import BaseModel, ConfigDict, ValidationError


class Identities(BaseModel):
    """`accounts`: the service accounts that exist, as emails; None: every one does.

    `invokers`: the members (`serviceAccount:EMAIL`, `allUsers`) that may call a function, by the
    function's address. An address that is not named is no function: it decides for itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    accounts: frozenset[str] | None = None
    invokers: dict[str, frozenset[str]] = {}

    @classmethod
    def read(cls, path: Path) -> Identities:
        """From a file of JSON. Raises ValueError, with a sentence, where it is none."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ValueError(f"Cannot read the identities {path}: {error.strerror}.") from None
        except ValidationError as error:
            raise ValueError(f"{path} does not name identities: {sentences(error)}") from None

    def exists(self, account: str) -> bool:
        return self.accounts is None or account in self.accounts

    def admits(self, account: str, url: str) -> bool:
        """Whether a call of the URL in the name of the account ("": of nobody) gets through."""
        for address, members in self.invokers.items():
            if url == address or url.startswith((f"{address}/", f"{address}?")):
                return "allUsers" in members or f"serviceAccount:{account}" in members
        return True


EVERYBODY = Identities()
"""Every account exists, and every address decides for itself."""
