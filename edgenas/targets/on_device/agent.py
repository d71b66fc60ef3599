"""The on-device agent: one sampling loop for every target and runtime. Standard library only, Python 3.6 syntax.

It reads one JSON request a line from standard input and answers each with one JSON line: {"ok": true, ...} or {"ok": false,
"error": "..."}. `part` is a runtime's own on-device part: `versions()`, `open_model(path, options)` giving an object with
`chunk(count) -> (wall ns, busy ns)` and `close()`, `open_profile(path, options)` giving such an object and a function `finish(chunks,
chunk)`, and `infer(path, inputs, outputs, options)`. `LEAST_CHUNK`, where a part has it, says that every chunk is a process of its own
that warms up by itself, and has to be that long to be worth it. An object may have `dropped`, runs of a chunk that are not among its
times, and `peak_rss_mib` where the model doesn't run in this process.

Requests: hello, write, read, remove, probe, bench, profile, infer, energy; each is the function of that name. A model is {"path",
"options": {"threads", "precision", ...}}.
"""

import base64
import json
import os
import sys
import time
import traceback

import part
import place
import power
import probes

PATIENCE, PATIENCE_S = 10, 3.0  # a measurement ends after so many times its time limit, and this long, with two chunks
STATE = {"folder": None}


def hello(request):
    """Make or find again the work folder of this token, and remove what others left behind a day ago."""
    STATE["folder"] = place.work_folder(request["token"])
    return {"folder": STATE["folder"]}


def write(request):
    """One piece of a file; the last one makes it appear, whole. A name is data: it has no folders in it."""
    name = request["name"]
    if not name or name in (".", "..") or "/" in name or "\0" in name or os.path.basename(name) != name:
        raise ValueError("%r is not a file name" % name)
    piece = base64.b64decode(request["data"])
    return {"path": place.write(STATE["folder"], name, request["token"], request["offset"], piece, request["last"])}


def read(request):
    data, more = place.read_piece(request["path"], request["offset"], request["count"])
    return {"data": base64.b64encode(data).decode(), "more": more}


def remove(request):
    place.remove(STATE["folder"])
    return {}


def probe(request):
    return probes.probe(part.versions(), STATE["folder"])


def bench(request):
    """Interleaved: every round gives each model a chunk of runs, and a chunk of the reference model (if there is one) right before it.
    What slows the machine for a while (a shared core, a lower clock) slows both, so their ratio stays."""
    chunk = max(request["chunk"], least_chunk())
    reference = opened(request["reference"]) if request["reference"] else None
    runs = [opened(model) for model in request["models"]]
    if reference:
        warm_up(reference, request["warmup_s"])
    warmups = [warm_up(run, request["warmup_s"]) for run in runs]
    samples, busy, reference_busy = ([[] for _ in runs] for _ in range(3))
    state = [(probes.temperature_c(), probes.clock_mhz())]
    start = time.perf_counter()
    while len(samples[-1]) < request["max_count"]:
        for i, run in enumerate(runs):
            if reference:
                reference_busy[i].extend(reference.chunk(chunk)[1])
            wall_ns, busy_ns = run.chunk(chunk)
            samples[i].extend(wall_ns)
            busy[i].extend(busy_ns)
        elapsed, count = time.perf_counter() - start, len(samples[-1])
        if elapsed >= request["max_s"] and count >= request["min_count"]:
            break
        if elapsed >= max(PATIENCE * request["max_s"], PATIENCE_S) and count >= 2 * chunk:
            break  # on a slow device the least count alone would take minutes
    state.append((probes.temperature_c(), probes.clock_mhz()))
    peaks = [run.peak_rss_mib for run in runs if getattr(run, "peak_rss_mib", None)]
    for run in runs + ([reference] if reference else []):
        run.close()
    return {
        "samples_ns": samples,
        "cpu_ns": busy,
        "reference_cpu_ns": reference_busy,
        "chunk": chunk,
        "warmup_counts": warmups,
        "temperature_c": [temperature for temperature, _ in state],
        "clock_mhz": [clock for _, clock in state],
        "load": probes.load(),
        "peak_rss_mib": max(peaks) if peaks else probes.peak_rss_mib(),
    }


def profile(request):
    """Per-node durations of one model, in chunks, each after a chunk of the reference model. A tool that only gives averages of a chunk
    is told by their number, and then the reference has one of each chunk as well."""
    chunk = max(request["chunk"], least_chunk())
    reference = opened(request["reference"])
    run, finish = part.open_profile(request["model"]["path"], request["model"]["options"])
    warm_up(reference, request["warmup_s"])
    warm_up(run, request["warmup_s"])
    reference_busy = []
    for _ in range(request["chunks"]):
        reference_busy.append(reference.chunk(chunk)[1])
        run.chunk(chunk)
    nodes = finish(request["chunks"], chunk)
    for each in (reference, run):
        each.close()
    if all(len(node["us"]) == request["chunks"] for node in nodes):
        reference_busy, chunk = [sum(busy) // len(busy) for busy in reference_busy], 1
    else:
        reference_busy = [ns for busy in reference_busy for ns in busy]
    return {"nodes": nodes, "reference_cpu_ns": reference_busy, "chunk": chunk}


def infer(request):
    model = request["model"]
    part.infer(model["path"], request["inputs"], request["outputs"], model["options"])
    return {}


def energy(request):
    """Of one run, in mJ, over about `seconds` of runs without pause: all that the counter or rail feeds. Null where there is none."""
    meter = power.Meter()
    nothing = {"energy_mj": None, "source": None, "runs": 0}
    if meter.source is None:
        return nothing
    run = opened(request["model"])
    used_mj, runs = (of_a_process if least_chunk() > 1 else of_calls)(run, meter, request["seconds"], request["chunk"])
    run.close()
    return nothing if used_mj is None else {"energy_mj": used_mj / runs, "source": meter.source, "runs": runs}


def of_calls(run, meter, seconds, chunk):
    """(mJ, runs) in this process."""
    warm_up(run, 0.2)
    runs, start = 0, time.perf_counter()
    meter.start()
    while time.perf_counter() - start < seconds:
        run.chunk(chunk)
        runs += chunk + getattr(run, "dropped", 0)
    return meter.stop(), runs


def of_a_process(run, meter, seconds, chunk):
    """(mJ, runs) of one long chunk. The process that runs it starts and loads the model first: only the time of the runs counts, which
    come last, so a counter that can't be read meanwhile says nothing."""
    typical_ns = sum(run.chunk(least_chunk())[0]) / least_chunk()
    runs = max(least_chunk(), int(seconds * 1e9 / typical_ns))
    meter.start()
    wall_ns = run.chunk(runs)[0]
    return meter.stop(sum(wall_ns) / 1e9), runs


def opened(model):
    return part.open_model(model["path"], model["options"])


def least_chunk():
    return getattr(part, "LEAST_CHUNK", 1)


def warm_up(run, seconds):
    """How many runs it took."""
    if least_chunk() > 1:
        return 0
    count, start = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - start < seconds:
        run.chunk(1)
        count += 1 + getattr(run, "dropped", 0)
    return count


REQUESTS = {each.__name__: each for each in (hello, write, read, remove, probe, bench, profile, infer, energy)}


def answer(request):
    do = REQUESTS.get(request["do"])
    if do is None:
        raise ValueError("unknown request: %r" % request["do"])
    return do(request)


def main():
    # a runtime may print to standard output; the protocol keeps the real one for itself
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            result = answer(json.loads(line))
            result["ok"] = True
        except Exception as error:  # whatever a runtime raises is an answer, not the agent's end
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            result = {"ok": False, "kind": type(error).__name__, "error": text, "trace": traceback.format_exc()}
            if hasattr(error, "hint"):  # of an agent on the host: an error of edgenas itself
                result.update(error=error.message, hint=error.hint)
        out.write(json.dumps(result) + "\n")
        out.flush()
