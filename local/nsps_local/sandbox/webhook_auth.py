"""The credentials EventSender puts into a webhook's header: Basic, Custom or Signature.

Source: PortaOne docs, appendix "Authentication methods". Of Signature, only the Date header is
signed, with HMAC-SHA1; whether the signing string is the bare value or "date: <value>" is not
settled, so both are offered.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from nsps_local.sandbox.config import Webhook


def credentials(webhook: Webhook, date: str) -> str | None:
    """The value of the authentication header for a request with this Date; None: send no header."""
    if webhook.auth_method == "Basic":
        pair = f"{webhook.basic_user}:{webhook.basic_key.get_secret_value()}"
        return "Basic " + base64.b64encode(pair.encode()).decode()
    if webhook.auth_method == "Custom":
        return f"{webhook.custom_type} {webhook.custom_credentials.get_secret_value()}"
    if webhook.auth_method == "Signature":
        prefix = "date: " if webhook.signing_string == "date_header" else ""
        key = webhook.signature_key.get_secret_value().encode()
        digest = hmac.new(key, f"{prefix}{date}".encode(), hashlib.sha1).digest()
        signature = base64.b64encode(digest).decode()
        return (
            f'Signature keyId="{webhook.signature_key_id}",algorithm="hmac-sha1",'
            f'signature="{signature}"'
        )
    return None
