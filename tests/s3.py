"""A server on the loopback that speaks S3, in memory: moto's, which is also what DVC is tested with."""

import importlib.util
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.processes import until

MISSING = [name for name in ("moto", "flask", "dvc_s3") if importlib.util.find_spec(name) is None]
BUCKET = "lab"
ACCESS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3(log: Path) -> Iterator[str]:
    """Its address while the context lives; it has an empty bucket, `BUCKET`, and takes the keys of `ACCESS`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as opened:
        command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
        process = subprocess.Popen(command, stdout=opened, stderr=opened)
    address = f"http://127.0.0.1:{port}"

    def has_bucket() -> bool:
        with suppress(urllib.error.URLError):
            return urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT")).status == 200
        return False

    try:
        until(has_bucket, seconds=120, pause=0.2)
        yield address
    finally:
        process.terminate()
        process.wait()
