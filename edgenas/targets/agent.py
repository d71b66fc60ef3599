"""The on-device agent: one sampling loop for every target and runtime. Standard library only, Python 3.6 syntax.

Started as `python agent.py PART.py`, where PART is a runtime's own on-device part. It reads one JSON request a line from standard
input and answers each with one JSON line: {"ok": true, ...} or {"ok": false, "error": "..."}.

Requests: {"do": "probe"}; {"do": "bench", "models": [paths], "reference", "threads", "warmup_s", "min_count", "max_count", "max_s",
"chunk"}; {"do": "profile", "model", "reference", "threads", "warmup_s", "chunks", "chunk"}; {"do": "infer", "model", "inputs",
"outputs", "threads"}.
"""

import importlib.util
import json
import os
import platform
import sys
import time
import traceback


def thread_cpu_ns():
    """CPU time of this thread, or of the process where a thread's can't be read."""
    clock = getattr(time, "CLOCK_THREAD_CPUTIME_ID", None)
    if clock is None:
        return int(time.process_time() * 1e9)
    return int(time.clock_gettime(clock) * 1e9)


def process_cpu_ns():
    return int(time.process_time() * 1e9)


def bench(part, request):
    """Interleaved: every round gives each model a chunk of runs, and a chunk of the reference model right before it. What slows
    the machine for a while (a shared core, a lower clock) slows both, so their ratio stays."""
    threads = request["threads"]
    reference = part.open_model(request["reference"], threads)
    runs = [part.open_model(path, threads) for path in request["models"]]
    warmups = [_warm_up(run, request["warmup_s"]) for run in [reference] + runs][1:]
    samples, cpu, reference_cpu = ([[] for _ in runs] for _ in range(3))
    before = temperature_c()
    start = time.perf_counter()
    while len(samples[-1]) < request["max_count"]:
        for i, run in enumerate(runs):
            _chunk(reference, request["chunk"], threads, [], reference_cpu[i])
            _chunk(run, request["chunk"], threads, samples[i], cpu[i])
        if time.perf_counter() - start >= request["max_s"] and len(samples[-1]) >= request["min_count"]:
            break
    return {
        "samples_ns": samples,
        "cpu_ns": cpu,
        "reference_cpu_ns": reference_cpu,
        "warmup_counts": warmups,
        "temperature_c": [before, temperature_c()],
        "load": load(),
        "peak_rss_mib": peak_rss_mib(),
    }


def profile(part, request):
    """Per-node durations of one model, in chunks, each after a chunk of the reference model."""
    threads = request["threads"]
    reference = part.open_model(request["reference"], threads)
    run, finish = part.open_profile(request["model"], threads)
    _warm_up(reference, request["warmup_s"])
    warmup = _warm_up(run, request["warmup_s"])
    reference_cpu = []
    for _ in range(request["chunks"]):
        _chunk(reference, request["chunk"], threads, [], reference_cpu)
        _chunk(run, request["chunk"], threads, [], [])
    # the two runs that every chunk drops were profiled as well
    kept = [
        i % (request["chunk"] + DROPPED) >= DROPPED for i in range(request["chunks"] * (request["chunk"] + DROPPED))
    ]
    nodes = finish()
    for node in nodes:
        node["us"] = [us for us, keep in zip(node["us"][warmup:], kept) if keep]
    return {"nodes": nodes, "reference_cpu_ns": reference_cpu}


DROPPED = 2  # runs at the start of a chunk that refill the caches after another model


def _chunk(run, count, threads, wall_ns, cpu_ns):
    """Append the wall and CPU time of `count` runs."""
    clock = thread_cpu_ns if threads == 1 else process_cpu_ns
    for i in range(count + DROPPED):
        c0 = clock()
        w0 = time.perf_counter()
        run()
        w1 = time.perf_counter()
        c1 = clock()
        if i >= DROPPED:
            wall_ns.append(int((w1 - w0) * 1e9))
            cpu_ns.append(c1 - c0)


def _warm_up(run, seconds):
    count, start = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - start < seconds:
        run()
        count += 1
    return count


def probe(part):
    info = cpu_info()
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu_name": info["name"],
        "isa": info["isa"],
        "cores": os.cpu_count(),
        "ram_mib": ram_mib(),
        "temperature_c": temperature_c(),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": clock_mhz(),
        "load": load(),
        "runtime_versions": part.versions(),
    }


def read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return None


def cpu_info():
    name, isa = platform.processor() or None, []
    for line in (read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            name = value.strip()
        if key.strip() in ("flags", "Features"):
            isa = value.lower().split()
    return {"name": name, "isa": isa}


def ram_mib():
    for line in (read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):
        return None


def clock_mhz():
    khz = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return int(khz) // 1000 if khz and khz.isdigit() else None


def temperature_c():
    """The hottest thermal zone, or null."""
    found = []
    base = "/sys/class/thermal"
    for zone in os.listdir(base) if os.path.isdir(base) else []:
        value = read(os.path.join(base, zone, "temp"))
        if value and value.lstrip("-").isdigit():
            found.append(int(value) / 1000)
    return max(found) if found else None


def load():
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def peak_rss_mib():
    """Of this process; Linux's ru_maxrss would count the parent's memory from before exec."""
    for line in (read("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def load_part(path):
    spec = importlib.util.spec_from_file_location("runtime_part", path)
    part = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(part)
    return part


def answer(part, request):
    do = request["do"]
    if do == "probe":
        return probe(part)
    if do == "bench":
        return bench(part, request)
    if do == "profile":
        return profile(part, request)
    if do == "infer":
        part.infer(request["model"], request["inputs"], request["outputs"], request["threads"])
        return {}
    raise ValueError("unknown request: %r" % do)


def main():
    # a runtime may print to standard output; the protocol keeps the real one for itself
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    part = load_part(sys.argv[1])
    for line in sys.stdin:
        try:
            result = answer(part, json.loads(line))
            result["ok"] = True
        except Exception as error:  # whatever a runtime raises is an answer, not the agent's end
            result = {"ok": False, "error": "%s: %s" % (type(error).__name__, error), "trace": traceback.format_exc()}
        out.write(json.dumps(result) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
