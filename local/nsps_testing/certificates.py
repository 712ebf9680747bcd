"""Certificates for tests: an authority, and what it has signed.

authority = issued("authority")
server, client = issued("localhost", authority), issued("nsps", authority)
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, as PEM."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def cert_pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def key_pem(self, passphrase: str | None = None) -> str:
        hidden = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else None
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            hidden or serialization.NoEncryption(),
        ).decode()

    @property
    def pem(self) -> str:
        return self.cert_pem + self.key_pem()

    def server_side(self, folder: Path, clients: Issued | None = None) -> ssl.SSLContext:
        """For a server that shows this certificate; ``folder``: where its file may be written.
        ``clients``: the authority of the certificate that it wants of a client."""
        file = folder / "server.pem"
        file.write_text(self.pem)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=clients.cert_pem)
        return context


def issued(
    name: str, by: Issued | None = None, start: datetime = NOW - DAY, end: datetime = NOW + DAY
) -> Issued:
    """Signed by an authority; ``by`` None: an authority itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    )
    return Issued(builder.sign(by.key if by else key, hashes.SHA256()), key)
