"""A real sshd on the loopback, with a configuration, keys and a port of its own."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.processes import free_port, until

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONFIGURATION = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class Server:
    port: int
    key: Path
    user: str


@contextmanager
def sshd(folder: Path) -> Iterator[Server]:
    """One that lives as long as the context; `folder` gets its keys and its log."""
    folder.mkdir(parents=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    (folder / "config").write_text(CONFIGURATION.format(port=port, folder=folder))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root wants it; Debian makes it at the start of its service
    subprocess.run([SSHD, "-f", folder / "config", "-E", folder / "log"], check=True)
    until((folder / "sshd.pid").exists)
    try:
        yield Server(port, folder / "user", pwd.getpwuid(os.getuid()).pw_name)
    finally:
        os.kill(int((folder / "sshd.pid").read_text()), signal.SIGTERM)
