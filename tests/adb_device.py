"""A stand-in Android device: the device's side of the ADB transport protocol on a loopback TCP port, for the real `adb` client.

Written from the protocol's documents in Android's packages/modules/adb (docs/dev/protocol.md, services.md, sync.md and the structs of
shell_protocol.h and file_sync_protocol.h). Services: `shell,v2,...:`, `shell:`, `exec:` and `sync:` (STAT, STA2, LST2, SEND, RECV,
QUIT). No authentication, no TLS. Commands really run, under /bin/sh; $TMPDIR names the folder that takes the place of /data/local/tmp.

    with AdbDevice(folder) as device:
        ...  # adb connect {device.serial}
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.ssh_device import free_port

SERVER_TRIES = 4
NO_ADB = "the adb client is not installed (Debian: apt install adb)"
PERF_TEST = Path(__file__).with_name("stand_in") / "onnxruntime_perf_test"
VERSION = 0x01000001  # from this one on, payloads carry no checksum
MAX_PAYLOAD = 256 * 1024
SYNC_DATA_MAX = 64 * 1024
FEATURES = ("shell_v2", "stat_v2")
AUTH_TOKEN, AUTH_PUBLIC_KEY = 1, 3
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)


@contextlib.contextmanager
def adb_server(home: Path) -> Iterator[int]:
    """The port of an adb server of our own, with keys of its own in `home`, so that a developer's are left alone."""
    for _ in range(SERVER_TRIES):
        port = free_port()
        command = [shutil.which("adb") or "adb", "-P", str(port)]
        environment = {**os.environ, "HOME": str(home)}
        started = subprocess.run(
            [*command, "start-server"], env=environment, capture_output=True, text=True, timeout=30
        )
        # it is content with a server that somebody else has there
        if started.returncode == 0 and "daemon started" in started.stderr:
            break
    else:
        raise RuntimeError(f"no adb server was started in {SERVER_TRIES} tries: {started.stderr[-500:]}")
    yield port
    subprocess.run([*command, "kill-server"], capture_output=True, timeout=30)


class ConnectionLost(Exception):
    pass


class AdbDevice:
    """`folder` is the device's storage for temporary files."""

    def __init__(self, folder: Path, features: tuple[str, ...] = FEATURES) -> None:
        self.folder = folder
        self.commands: list[str] = []  # that the shell was given
        self._features = features
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._listener.getsockname()[1]
        self._connections: set[_Connection] = set()
        self._lock = threading.Lock()
        self._bytes_left: int | None = None
        self._stays_away = False
        self.unauthorized = False
        self._answering = threading.Event()
        self._answering.set()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self._port}"

    def install_perf_test(self, folder: Path | None = None) -> Path:
        """The stand-in for ONNX Runtime's program, run by the Python of the tests."""
        path = (folder or self.folder) / PERF_TEST.name
        text = PERF_TEST.read_text(encoding="utf-8")
        path.write_text(f"#!{sys.executable}\n{text.partition(chr(10))[2]}", encoding="utf-8")
        path.chmod(0o755)
        return path

    def disconnect_after(self, byte_count: int, *, stay_away: bool = False) -> None:
        """Drop the connection once so many more bytes went through open streams, either way. It takes new connections at once,
        or, with `stay_away`, when told to come back."""
        with self._lock:
            self._bytes_left, self._stays_away = byte_count, stay_away

    def go_away(self) -> None:
        """Drop the connection and refuse new ones."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(
                socket.SHUT_RDWR
            )  # a closed socket goes on listening while a thread waits in accept
        self._listener.close()
        for connection in list(self._connections):
            connection.drop()

    def hang(self) -> None:
        """Keep the connection and answer nothing more."""
        self._answering.clear()

    def demand_authorization(self) -> None:
        """From now on no computer that connects is trusted."""
        self.unauthorized = True

    def come_back(self) -> None:
        """Undo `go_away`, `hang` and what `disconnect_after` did."""
        with self._lock:
            self._bytes_left = None
        self._answering.set()
        if self._listener.fileno() == -1:
            self._listener = socket.create_server(("127.0.0.1", self._port))
            self._accept_connections()

    def __enter__(self) -> Self:
        self._accept_connections()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answering.set()
        self.go_away()

    def _accept_connections(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                link, _ = listener.accept()
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = _Connection(self, link)
                self._connections.add(connection)
                threading.Thread(target=connection.serve, daemon=True).start()

    def banner(self) -> str:
        properties = {"ro.product.name": "standin", "ro.product.model": "Stand-in", "ro.product.device": "standin"}
        named = "".join(f"{key}={value};" for key, value in properties.items())
        return f"device::{named}features={','.join(self._features)}"

    def passes(self, byte_count: int) -> None:
        """Called for every payload of a stream."""
        self._answering.wait()
        with self._lock:
            if self._bytes_left is None:
                return
            self._bytes_left -= byte_count
            if self._bytes_left > 0:
                return
            self._bytes_left = None
        if self._stays_away:
            self.go_away()
        else:
            for connection in list(self._connections):
                connection.drop()
        raise ConnectionLost

    def forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)


class _Connection:
    """One transport: messages of a 24-byte header and a payload, which carry any number of streams."""

    def __init__(self, device: AdbDevice, link: socket.socket) -> None:
        self._device = device
        self._link = link
        self._sending = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        # none is used twice: what the computer still says of a stream that ended would reach the next
        self._ids = itertools.count(1)

    def serve(self) -> None:
        try:
            while True:
                name, arg0, arg1, payload = self._receive()
                if name in (b"CNXN", b"AUTH") and self._device.unauthorized:
                    if arg0 != AUTH_PUBLIC_KEY:  # offered last; a device then asks its owner
                        self.send(b"AUTH", AUTH_TOKEN, 0, bytes(20))
                elif name == b"CNXN":
                    self.send(b"CNXN", VERSION, MAX_PAYLOAD, self._device.banner().encode())
                elif name == b"OPEN":
                    self._open(arg0, payload.rstrip(b"\0").decode())
                elif stream := self._streams.get(arg1):
                    stream.take(name, payload)
        except (ConnectionLost, OSError, struct.error):
            self.drop()

    def send(self, name: bytes, arg0: int, arg1: int, payload: bytes = b"") -> None:
        (command,) = struct.unpack("<I", name)
        header = struct.pack("<6I", command, arg0, arg1, len(payload), 0, command ^ 0xFFFFFFFF)
        with self._sending:
            self._link.sendall(header + payload)

    def count(self, byte_count: int) -> None:
        self._device.passes(byte_count)

    def close(self, stream: _Stream) -> None:
        if self._streams.pop(stream.own_id, None) is not None:
            stream.take(b"CLSE", b"")
            with contextlib.suppress(OSError):
                self.send(b"CLSE", stream.own_id, stream.other_id)

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()
        self._device.forget(self)
        for stream in list(self._streams.values()):
            stream.take(b"CLSE", b"")

    def _open(self, other_id: int, destination: str) -> None:
        service = _service(self._device, destination)
        own_id = next(self._ids)
        if service is None:
            self.send(b"CLSE", 0, other_id)
            return
        stream = self._streams[own_id] = _Stream(self, own_id, other_id)
        self.send(b"OKAY", own_id, other_id)
        threading.Thread(target=stream.run, args=(service,), daemon=True).start()

    def _receive(self) -> tuple[bytes, int, int, bytes]:
        name, arg0, arg1, length = struct.unpack("<4s3I", self._exactly(24)[:16])
        payload = self._exactly(length)
        if name == b"WRTE":
            self.count(length)
        self._device._answering.wait()
        return name, arg0, arg1, payload

    def _exactly(self, length: int) -> bytes:
        parts = []
        while length:
            part = self._link.recv(min(length, 1 << 20))
            if not part:
                raise ConnectionLost
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


class _Stream:
    """One service's two-way byte stream. A message is sent when the one before was acknowledged."""

    def __init__(self, connection: _Connection, own_id: int, other_id: int) -> None:
        self.own_id, self.other_id = own_id, other_id
        self._connection = connection
        self._may_send = threading.Semaphore(1)
        self._writing = threading.Lock()
        self._inbox: queue.Queue[bytes | None] = queue.Queue()
        self._unread = b""
        self._closed = False

    def run(self, service: Callable[[_Stream], None]) -> None:
        with contextlib.suppress(ConnectionLost, OSError):
            service(self)
        self._connection.close(self)

    def take(self, name: bytes, payload: bytes) -> None:
        if name == b"WRTE":
            self._inbox.put(payload)
        elif name == b"OKAY":
            self._may_send.release()
        elif name == b"CLSE":
            self._closed = True
            self._inbox.put(None)
            self._may_send.release()

    def write(self, data: bytes) -> None:
        with self._writing:
            for start in range(0, len(data), MAX_PAYLOAD):
                chunk = data[start : start + MAX_PAYLOAD]
                self._may_send.acquire()
                if self._closed:
                    self._may_send.release()
                    raise ConnectionLost
                self._connection.count(len(chunk))
                self._connection.send(b"WRTE", self.own_id, self.other_id, chunk)

    def read(self, length: int) -> bytes:
        """Exactly so many bytes."""
        while len(self._unread) < length:
            more = self._inbox.get()
            if more is None:
                self._inbox.put(None)
                raise ConnectionLost
            self._connection.send(b"OKAY", self.own_id, self.other_id)
            self._unread += more
        data, self._unread = self._unread[:length], self._unread[length:]
        return data

    def read_some(self) -> bytes:
        return self.read(len(self._unread) or 1)


def _service(device: AdbDevice, destination: str) -> Callable[[_Stream], None] | None:
    name, _, rest = destination.partition(":")
    kind, *options = name.split(",")
    if kind == "shell" and "v2" in options:
        return lambda stream: _shell_v2(device, rest, stream)
    if kind in ("shell", "exec"):
        return lambda stream: _merged(device, rest, stream)
    if kind == "sync":
        return _sync
    return None


def _start(device: AdbDevice, command: str, stderr: int) -> subprocess.Popen[bytes]:
    device.commands.append(command)
    # On Android a shell starts in /, which nobody can write to; /proc is like that for root as well.
    nowhere = "/proc" if Path("/proc").is_dir() else "/"
    return subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=nowhere,
        env={"PATH": os.defpath, "TMPDIR": str(device.folder), "LANG": "C.UTF-8"},
        bufsize=0,
        start_new_session=True,
    )


def _shell_v2(device: AdbDevice, command: str, stream: _Stream) -> None:
    """Packets of an id, a length and that many bytes."""
    process = _start(device, command, subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None

    def forward(output: int, packet_id: int) -> None:
        with contextlib.suppress(ConnectionLost, OSError):
            while data := os.read(output, SYNC_DATA_MAX):
                stream.write(struct.pack("<BI", packet_id, len(data)) + data)

    def feed() -> None:
        assert process.stdin is not None
        try:
            while True:
                packet_id, length = struct.unpack("<BI", stream.read(5))
                data = stream.read(length)
                if packet_id == STDIN:
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.write(data)
                elif packet_id == CLOSE_STDIN:
                    process.stdin.close()
        except (ConnectionLost, OSError, ValueError):
            process.kill()

    pumps = [
        threading.Thread(target=forward, args=(process.stdout.fileno(), STDOUT), daemon=True),
        threading.Thread(target=forward, args=(process.stderr.fileno(), STDERR), daemon=True),
    ]
    threading.Thread(target=feed, daemon=True).start()
    for pump in pumps:
        pump.start()
    for pump in pumps:
        pump.join()
    code = process.wait()
    process.stdout.close()
    process.stderr.close()
    stream.write(struct.pack("<BIB", EXIT, 1, code if code >= 0 else 128 - code))


def _merged(device: AdbDevice, command: str, stream: _Stream) -> None:
    """Bare output, both kinds in one, and no exit code: `exec:`, and `shell:` of a device without shell_v2."""
    process = _start(device, command, subprocess.STDOUT)
    assert process.stdin is not None
    assert process.stdout is not None

    def feed() -> None:
        assert process.stdin is not None
        with contextlib.suppress(ConnectionLost, OSError, ValueError):
            while True:
                process.stdin.write(stream.read_some())

    threading.Thread(target=feed, daemon=True).start()
    try:
        while data := os.read(process.stdout.fileno(), SYNC_DATA_MAX):
            stream.write(data)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _sync(stream: _Stream) -> None:
    """File transfer: requests of four letters, a length and a path."""
    while True:
        request, length = struct.unpack("<4sI", stream.read(8))
        if request == b"QUIT":
            return
        path = stream.read(length)
        if request == b"STAT":
            stream.write(_stat_v1(path))
        elif request in (b"LST2", b"STA2"):
            stream.write(_stat_v2(request, path))
        elif request == b"SEND":
            _receive_file(stream, path)
        elif request == b"RECV":
            _send_file(stream, path)
        else:
            stream.write(_fail(f"unknown command {request!r}"))
            return


def _stat_v1(path: bytes) -> bytes:
    try:
        found = os.lstat(path)
    except OSError:
        return struct.pack("<4s3I", b"STAT", 0, 0, 0)
    return struct.pack("<4s3I", b"STAT", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))


def _stat_v2(request: bytes, path: bytes) -> bytes:
    layout = "<4sIQQIIIIQqqq"
    try:
        found = os.lstat(path) if request == b"LST2" else os.stat(path)  # noqa: PTH116
    except OSError as error:
        return struct.pack(layout, request, error.errno, *[0] * 10)
    return struct.pack(
        layout,
        request,
        0,
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_size,
        int(found.st_atime),
        int(found.st_mtime),
        int(found.st_ctime),
    )


def _receive_file(stream: _Stream, request: bytes) -> None:
    """What arrived of a transfer that ended early is removed, as the daemon does."""
    path, _, mode = request.rpartition(b",")
    problem, done = "", False
    file = None
    try:
        Path(os.fsdecode(path)).parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "wb")  # noqa: SIM115, PTH123
        os.chmod(path, stat.S_IMODE(int(mode)))  # noqa: PTH101
    except OSError as error:
        problem = f"couldn't create file: {error.strerror}"
    try:
        while True:
            kind, length = struct.unpack("<4sI", stream.read(8))
            if kind == b"DONE":
                done = True
                break
            data = stream.read(length)
            if file is not None and not problem:
                try:
                    file.write(data)
                except OSError as error:
                    problem = f"write failed: {error.strerror}"
    finally:
        if file is not None:
            file.close()
        if file is not None and (problem or not done):
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
    stream.write(_fail(problem) if problem else struct.pack("<4sI", b"OKAY", 0))


def _send_file(stream: _Stream, path: bytes) -> None:
    try:
        file = open(path, "rb")  # noqa: SIM115, PTH123
    except OSError as error:
        stream.write(_fail(f"open failed: {error.strerror}"))
        return
    with file:
        while data := file.read(SYNC_DATA_MAX):
            stream.write(struct.pack("<4sI", b"DATA", len(data)) + data)
    stream.write(struct.pack("<4sI", b"DONE", 0))


def _fail(problem: str) -> bytes:
    message = problem.encode()
    return struct.pack("<4sI", b"FAIL", len(message)) + message
