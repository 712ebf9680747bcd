"""What the doctor says of a handler's client certificate on this machine."""

from __future__ import annotations

from datetime import timedelta

import pytest
from nsps_local.doctor.checks import _certificate, _shaped
from nsps_local.doctor.finding import State
from nsps_testing.certificates import NOW, issued

AUTHORITY = issued("authority")
OURS = issued("ours", AUTHORITY)
EXPIRED = issued("ours", AUTHORITY, end=NOW - timedelta(minutes=1))


@pytest.mark.parametrize(
    ("secret", "state", "said"),
    [
        (OURS.pem, State.GOOD, "can be read"),
        (EXPIRED.pem, State.BAD, "expired on "),
        (OURS.cert_pem + EXPIRED.key_pem(), State.BAD, "its private key is not that of"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_bad(secret: str, state: State, said: str) -> None:
    finding = _shaped("acme-cert", secret, _certificate)
    assert (finding.state, finding.said[: len(said)]) == (state, said)
