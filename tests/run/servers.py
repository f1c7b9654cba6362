"""A PostgreSQL server of a test's own, which it may stop; where OPTEVOLVE_TEST_POSTGRES asks for tests of servers, and one is installed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "right password"


@dataclass
class Server:
    """Listens on a socket in its folder, and asks for passwords; `optevolve` is its user, `postgres` a database."""

    folder: Path
    binaries: Path

    def url(self, **query: str) -> str:
        rest = "".join(f"&{key}={value}" for key, value in query.items())
        return f"postgresql+psycopg://optevolve@/postgres?host={self.folder}{rest}"

    def control(self, *arguments: str) -> None:
        options = f"-c listen_addresses='' -k {self.folder} -c fsync=off"
        log = str(self.folder / "log")
        self.run(str(self.binaries / "pg_ctl"), "-D", str(self.folder / "data"), "-w", "-l", log, "-o", options, *arguments)

    def run(self, *command: str) -> None:
        own = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # the server refuses to run as root
        done = subprocess.run([*own, *command], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        assert done.returncode == 0, done.stdout


@contextmanager
def own_server() -> Iterator[Server]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if "OPTEVOLVE_TEST_POSTGRES" not in os.environ or not found:
        pytest.skip("OPTEVOLVE_TEST_POSTGRES names no server, or none is installed that a test may stop")
    folder = Path(tempfile.mkdtemp(prefix="server-"))
    server = Server(folder, found[-1])
    try:
        (folder / "password").write_text(PASSWORD, encoding="utf-8")
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        login = ("-A", "scram-sha-256", f"--pwfile={folder / 'password'}")
        server.run(str(server.binaries / "initdb"), "-D", str(folder / "data"), "-U", "optevolve", *login, "-E", "UTF8", "--no-sync")
        server.control("start")
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.control("-m", "immediate", "stop")
        shutil.rmtree(folder)
