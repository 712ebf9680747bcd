"""The push endpoint of a handler's subscription: taken off, and put back.

Without one Pub/Sub keeps the messages and counts no attempts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nsps.domain.outcome import Transient
from nsps.runtime.settings import HandlerLocation

if TYPE_CHECKING:
    from google.cloud.pubsub_v1 import SubscriberClient

CALL_SECONDS = 10.0


class Subscriptions:
    """Pub/Sub's subscriptions, for one caller. ``service_account``: in whose name it pushes."""

    def __init__(self, service_account: str) -> None:
        from google.cloud.pubsub_v1 import SubscriberClient

        self._client: SubscriberClient = SubscriberClient()
        self._service_account = service_account

    def is_off(self, location: HandlerLocation) -> bool:
        """Whether the subscription has no endpoint. Raises Transient."""
        from google.api_core.exceptions import GoogleAPIError

        try:
            found = self._client.get_subscription(
                subscription=location.subscription, timeout=CALL_SECONDS
            )
        except GoogleAPIError as error:
            raise _unreachable(location, error) from error
        return not found.push_config.push_endpoint

    def turn(self, location: HandlerLocation, *, off: bool) -> None:
        """Take the endpoint off, or put the function's back. Raises Transient."""
        from google.api_core.exceptions import GoogleAPIError
        from google.cloud.pubsub_v1.types import PushConfig

        config = PushConfig()
        if not off:
            token = PushConfig.OidcToken(
                service_account_email=self._service_account, audience=location.audience
            )
            config = PushConfig(push_endpoint=location.url, oidc_token=token)
        try:
            self._client.modify_push_config(
                subscription=location.subscription, push_config=config, timeout=CALL_SECONDS
            )
        except GoogleAPIError as error:
            raise _unreachable(location, error) from error


def _unreachable(location: HandlerLocation, error: Exception) -> Transient:
    name = location.subscription.rpartition("/")[2]
    return Transient(f"Pub/Sub did not answer for subscription {name}: {type(error).__name__}")
