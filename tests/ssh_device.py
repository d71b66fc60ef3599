"""A real OpenSSH server on a loopback port, with keys and configuration of its own: the device of the tests over ssh."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

SSHD = shutil.which("sshd") or next((p for p in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if Path(p).exists()), None)
MISSING = "no OpenSSH server is installed (apt-get install openssh-server)"


class SshDevice:
    """`address` reaches it through `config`, an ssh_config that trusts its host key; whoever runs the tests logs in by key.
    `settings`: further lines of its sshd_config."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: Callable[[], None] | None = None,
        environment: Mapping[str, str] = {},
        settings: str = "",
    ):
        self.folder, self.limits, self.environment = folder, limits, environment
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("host_key", "user_key", "other_key", "other_host_key"):
            if not (folder / name).exists():
                _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        self.port = free_port()
        self.log = folder / "sshd.log"
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
        self.config = self.client_config("config", "host_key", "user_key")
        # on one line: of several, sshd takes the first
        variables = " ".join(f'{name}="{value}"' for name, value in environment.items())
        (folder / "sshd_config").write_text(
            f"""Port {self.port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel VERBOSE
{"SetEnv " + variables if variables else ""}
{settings}
"""
        )
        if SSHD and _understands("PerSourcePenalties no"):  # from 9.8 on it shuts out who fails to log in a few times
            with (folder / "sshd_config").open("a") as file:
                file.write("PerSourcePenalties no\n")

    @property
    def address(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    def client_config(self, name: str, host_key: str, user_key: str) -> Path:
        """An ssh_config with these keys; it accepts no other host key."""
        key = (self.folder / f"{host_key}.pub").read_text().split()
        known = self.folder / f"{name}.known_hosts"
        known.write_text(f"[127.0.0.1]:{self.port} {key[0]} {key[1]}\n")
        path = self.folder / name
        path.write_text(
            f"UserKnownHostsFile {known}\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n"
            f"IdentityFile {self.folder}/{user_key}\nIdentitiesOnly yes\nIdentityAgent none\n"
        )
        return path

    def client(self, config: Path | None = None) -> str:
        """What EDGENAS_SSH has to say."""
        return f"ssh -F {shlex.quote(str(config or self.config))}"

    def start(self) -> None:
        assert SSHD is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        ready = self.folder / "sshd.pid"  # it is written once sshd listens; another's listener would answer as well
        ready.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stderr=self.log.open("ab"),
            preexec_fn=self.limits,
        )
        deadline = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline:
            if ready.exists():
                return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"sshd did not start: {self.log.read_text()[-500:]}")

    def stop(self) -> None:
        """The device is gone: the server and every connection."""
        if self.process is not None:
            self.cut()
            self.process.kill()
            self.process.wait()
            self.process = None

    def cut(self) -> int:
        """Kill the connections that are open now, and return how many processes that were; new ones are welcome."""
        assert self.process is not None
        killed = 0
        for pid in list(_descendants(self.process.pid)):
            if _name(pid).startswith("sshd"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        return killed

    def __enter__(self) -> SshDevice:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port() -> int:
    """Where nobody listens. On Linux it is kept for a minute from all who ask for any port, as a connection there is in TIME_WAIT;
    a server that asks for this very one gets it, as servers set SO_REUSEADDR."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            probe.accept()[0].close()  # the end that closes first is the one that waits
        return port


def _understands(setting: str) -> bool:
    """Whether this sshd knows the setting; what else is wrong without host keys is not asked."""
    assert SSHD is not None
    tried = subprocess.run([SSHD, "-t", "-f", "/dev/null", "-o", setting], capture_output=True, text=True)
    return "Bad configuration option" not in tried.stderr


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _descendants(pid: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid:
                    yield from _descendants(int(entry.name))
                    yield int(entry.name)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
