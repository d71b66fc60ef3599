"""By Ray: tasks run in worker processes of this machine, or of a cluster (`ray:HOST:PORT`), and are run again when one dies.

Workers read and write the build's folder, so those of other machines need it under the same path (a shared file system); what tasks
share, a supernet or a data set, goes once through Ray's object store. It travels pickled, between processes that one user started to
run this code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgenas.errors import EdgenasError, InputError
from edgenas.executors.executor import ItemT, Report, ResultT, SharedT
from edgenas.executors.local import torch_threads

RETRIES = 5  # of a task whose process died
LEAST_WORKERS = 2
WAITING_SHARE = 2  # tasks for each that can run, so that no worker waits for the next
CONNECT_S = 10.0
# before Ray is imported, and for this process and those it starts alone: the user's own settings stay
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing phones home
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns of a default that is going to change
}


def open_executor(address: str, threads: int | None) -> RayExecutor:
    """Looks only whether Ray is installed: it takes ten seconds to start, and a build whose stages are all cached needs none."""
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "--executor ray needs Ray, which is not installed", "Install it: python -m pip install 'edgenas[cluster]'"
        )
    host, _, port = address.rpartition(":")
    if address and not (host and port.isdecimal() and int(port) < 1 << 16):
        raise InputError(f"{address!r} is no address of a Ray cluster", "One looks like --executor ray:HOST:6379.")
    return RayExecutor(address, threads or 1)


class RayExecutor:
    """`threads` of each task, and how many processors it therefore takes; as many tasks run at once as that leaves room for."""

    def __init__(self, address: str = "", threads: int = 1) -> None:
        self._address, self._threads = address, threads
        self._task: Any = None  # once Ray runs
        self._ahead = 0  # how many tasks are handed out at a time
        self._put: tuple[Any, str, Any] | None = None

    def map(
        self,
        function: Callable[[SharedT, ItemT, Report], ResultT],
        items: Sequence[ItemT],
        shared: SharedT,
        on_report: Callable[[int, float], None] = lambda index, done: None,
    ) -> Iterator[ResultT]:
        if not items:
            return
        if self._task is None:
            self._start()
        import ray

        key, stored = self._stored(shared)
        tasks: list[Any] = []
        running: list[Any] = []
        for index in range(len(items)):
            while index >= len(tasks) or tasks[index] in running:
                # Few at a time, since those that nobody asks for any more can't be taken back: ray.cancel (of Ray 2.60) ends this
                # process when the task is just done.
                for item in items[len(tasks) : len(tasks) + self._ahead - len(running)]:
                    tasks.append(self._task.remote(function, key, [stored], item, self._threads))
                    running.append(tasks[-1])
                _, running = ray.wait(running, num_returns=1)
            result, tasks[index] = _result(tasks[index]), None
            yield result

    def close(self) -> None:
        if self._task is not None:
            import ray

            self._task = self._put = None
            ray.shutdown()

    def _start(self) -> None:
        os.environ.update(SETTINGS)
        import ray

        if self._address:
            _refuse_if_nobody_listens(self._address)
        processors = max(os.cpu_count() or 1, LEAST_WORKERS * self._threads)
        local: dict[str, Any] = {"address": "local", "num_cpus": processors, "include_dashboard": False}
        try:
            ray.init(
                **({"address": self._address} if self._address else local), log_to_driver=False, logging_level="error"
            )
        except Exception as error:  # of Ray's own kinds, of its connections, or of what it started
            if not self._address:
                raise EdgenasError(f"Ray can't be started: {_first_line(error)}", "Or leave --executor out.") from error
            hint = "Is it the address that `ray start --head` said there?"
            if "Authentication" in repr(error.__cause__):
                hint = (
                    "It asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here as on the cluster's machines."
                )
            raise EdgenasError(f"Ray can't be reached at {self._address}: {_first_line(error)}", hint) from error
        most = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if most < self._threads:
            ray.shutdown()
            raise InputError(
                f"each task takes {self._threads} processors, and no machine of the cluster has more than {most:g}",
                f"Ask for at most --task-threads {int(most)}.",
            )
        self._ahead = WAITING_SHARE * max(1, int(ray.cluster_resources()["CPU"] // self._threads))
        self._task = ray.remote(num_cpus=self._threads, max_retries=RETRIES)(_run)

    def _stored(self, shared: Any) -> tuple[str, Any]:
        """Its key and where it lies in the object store; batches of one search share one and the same object."""
        import ray

        if self._put is None or self._put[0] is not shared:
            data = ray.cloudpickle.dumps(shared)
            self._put = (shared, hashlib.sha256(data).hexdigest(), ray.put(data))
        return self._put[1], self._put[2]


def _refuse_if_nobody_listens(address: str) -> None:
    """At once; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise EdgenasError(
            f"no Ray cluster answers at {address}: {error}",
            "Start one there: ray start --head. It says the address, and this machine has to reach it.",
        ) from error


_kept: dict[str, Any] = {}  # in a worker process: what its tasks share, by key; only the last one


def _run(function: Callable[[Any, Any, Report], Any], key: str, stored: list[Any], item: Any, threads: int) -> Any:
    """A task in a worker process. `stored` is a list so that Ray fetches what it holds only when this process has not got it."""
    import ray

    if key not in _kept:
        _kept.clear()
        _kept[key] = ray.cloudpickle.loads(ray.get(stored[0]))
    with torch_threads(threads):
        return function(_kept[key], item, lambda done: None)


def _result(task: Any) -> Any:
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EdgenasError):
            raise error.cause from None
        raise EdgenasError(f"a task failed in one of Ray's workers: {_first_line(error.cause)}") from error
    except ray.exceptions.RayError as error:
        raise EdgenasError(
            f"a task's worker died {RETRIES + 1} times: {_first_line(error)}",
            "Run the same command again: what was finished is kept. `ray status` and /tmp/ray tell more.",
        ) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
