"""Timing calls in this process, wall and CPU time of each. Standard library, Python 3.6."""

import time

DROPPED = 2  # runs at the start of a chunk that refill the caches after another model


def thread_cpu_ns():
    """CPU time of this thread, or of the process where a thread's can't be read."""
    clock = getattr(time, "CLOCK_THREAD_CPUTIME_ID", None)
    if clock is None:
        return int(time.process_time() * 1e9)
    return int(time.clock_gettime(clock) * 1e9)


def process_cpu_ns():
    return int(time.process_time() * 1e9)


class InProcess:
    """A model that `run` runs once; of several threads the whole process's CPU time counts."""

    def __init__(self, run, threads):
        self.run = run
        self.clock = thread_cpu_ns if threads == 1 else process_cpu_ns
        self.dropped = DROPPED

    def chunk(self, count):
        """(wall ns, CPU ns) of `count` runs."""
        run, clock = self.run, self.clock
        wall_ns, busy_ns = [], []
        for i in range(count + DROPPED):
            c0 = clock()
            w0 = time.perf_counter()
            run()
            w1 = time.perf_counter()
            c1 = clock()
            if i >= DROPPED:
                wall_ns.append(int((w1 - w0) * 1e9))
                busy_ns.append(c1 - c0)
        return wall_ns, busy_ns

    def close(self):
        self.run = None
