"""Starting an agent where there is nothing but Python: its source travels over its own standard input.

The command that a target starts is the same constant everywhere, so no shell on the way ever sees a name, a path or an option that
somebody chose: those arrive as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ON_DEVICE = Path(__file__).with_name("on_device")
# Reads one line byte by byte (what comes after it belongs to whoever reads next) and runs it: a JSON string of Python.
PROGRAM = 'import os,json;exec(json.loads(b"".join(iter(lambda:os.read(0,1)or exit(),b"\\n")).decode()))'
MODULES = ("place", "timing", "probes", "power")


class Via(NamedTuple):
    """How an agent on the host reaches a device: its `place.VIA` is what `open_place(**arguments)` of this module gives."""

    module: str
    arguments: dict[str, Any]


_OTHER_PYTHON = """
import os, sys
python = os.path.expanduser({python!r})
try:
    os.execv(python, [python, "-u", "-c", {program!r}])
except (OSError, ValueError) as error:
    sys.exit("no Python can be started at %r: %s" % (python, getattr(error, "strerror", None) or error))
"""
_VIA = """
import importlib
sys.modules["place"].VIA = importlib.import_module({module!r}).open_place(**{arguments!r})
"""
_LOADER = """
import sys, types
for name, source in {sources!r}:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name + ".py", "exec"), module.__dict__)
{via}
sys.modules["agent"].main()
"""


def preamble(part: Path, modules: Sequence[Path] = (), python: str | None = None, via: Via | None = None) -> list[str]:
    """The lines to write first: they make PROGRAM the agent with this runtime part, which may import `modules`. `python`: the
    interpreter that has the runtime (`~` is the device's), where it isn't the one that runs PROGRAM. `via`: for a device that the
    agent doesn't run on."""
    own = [ON_DEVICE / f"{name}.py" for name in MODULES]
    files = [(path.stem, path) for path in (*own, *modules)] + [("part", part), ("agent", ON_DEVICE / "agent.py")]
    sources = [(name, path.read_text(encoding="utf-8")) for name, path in files]
    lines = [_LOADER.format(sources=sources, via=_VIA.format(**via._asdict()) if via else "")]
    if python is not None:
        lines.insert(0, _OTHER_PYTHON.format(python=python, program=PROGRAM))
    return [json.dumps(line) for line in lines]
