"""A Postfix with mailboxes of example.net, and how it is read: by its Maildirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from email.policy import default
from pathlib import Path

from nsps_local.daemons.process import NotInstalled, accepts, free_port, installed, process, run

NOBODY = 65534
_MASTER = Path("/usr/share/postfix/master.cf.dist")
_BOXES = {
    "ann@example.net": "ann/",
    "ada@example.net": "ada/",
    "ben@example.net": "ben/",
    "jörg@example.net": "joerg/",
    "ann@xn--bcher-kva.example": "buecher/",
}
_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/data
mail_owner = postfix
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.example.net
mydestination =
maillog_file = {folder}/maillog
maillog_file_prefixes = {folder}
virtual_mailbox_domains = example.net, xn--bcher-kva.example
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = texthash:{folder}/boxes
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_recipient_restrictions = reject_unauth_destination
smtpd_relay_restrictions = permit_mynetworks reject_unauth_destination
default_transport = error:no outside mail
message_size_limit = 20000
smtpd_tls_security_level = may
smtpd_tls_received_header = yes
smtpd_tls_cert_file = {folder}/cert.pem
smtpd_tls_key_file = {folder}/key.pem
"""


class Postfix:
    """A Postfix in a folder of its own, on ``port`` of 127.0.0.1 while it runs."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def mails(self, box: str) -> list[Message]:
        """What was delivered, oldest first."""
        files = sorted((self.folder / "mail" / box / "new").glob("*"), key=os.path.getmtime)
        return [message_from_bytes(each.read_bytes(), policy=default) for each in files]

    @contextmanager
    def running(self) -> Iterator[None]:
        command = [installed("postfix", "postfix"), "-c", str(self.folder)]

        def ready() -> bool:
            return accepts("127.0.0.1", self.port)

        with process([*command, "start-fg"], self.folder, ready):
            try:
                yield
            finally:  # a signal would end the script that started it, and no more
                subprocess.run(  # noqa: S603
                    [*command, "stop"], capture_output=True, timeout=20, check=False
                )
        end = time.monotonic() + 20
        while ready() and time.monotonic() < end:  # its children end a moment later
            time.sleep(0.05)


@contextmanager
def postfix() -> Iterator[Postfix]:
    """A Postfix that does not run yet. Raises NotInstalled."""
    installed("postfix", "postfix")
    if not _MASTER.exists():
        raise NotInstalled("Postfix is not installed: apt-get install postfix")
    if os.geteuid() != 0:
        raise NotInstalled("Postfix is started by root only")
    with tempfile.TemporaryDirectory(prefix="nsps-postfix-") as name:
        folder = Path(name)
        yield Postfix(folder, _prepare(folder))


def _prepare(folder: Path) -> int:
    """Write the configuration; returns the port. Postfix's own users must reach the folder."""
    folder.chmod(0o755)
    port = free_port()
    for name in ("spool", "data", "mail"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", "postfix")
    os.chown(folder / "mail", NOBODY, NOBODY)
    (folder / "main.cf").write_text(_MAIN.format(folder=folder))
    lines = _MASTER.read_text().splitlines()
    services = [line for line in lines if line and not line.startswith(("#", " ", "smtp  "))]
    plain = [_chroot_free(line) for line in services]
    outgoing = "smtp unix - - n - - smtp"
    listening = f"127.0.0.1:{port} inet n - n - - smtpd"
    (folder / "master.cf").write_text("\n".join([listening, outgoing, *plain]) + "\n")
    text = "".join(f"{address} {box}\n" for address, box in _BOXES.items())
    (folder / "boxes").write_text(text, encoding="utf-8")
    _certify(folder)
    return port


def _chroot_free(line: str) -> str:
    fields = line.split()
    if len(fields) >= 8:
        fields[4] = "n"
    return " ".join(fields)


def _certify(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    run(command)
