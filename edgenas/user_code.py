"""The user's own functions, named `package.module:function`: found, called, and what goes wrong said in one sentence."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgenas.errors import InputError


def names_a_function(spec: str) -> bool:
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", spec) is not None


@contextlib.contextmanager
def running() -> Iterator[None]:
    """The working directory can be imported from, as with `python -m`; what the code prints goes to stderr."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def called(spec: str, source: str, expected: str) -> Any:
    """What the function `spec` returns when it is called without arguments, inside `running`.

    `source` is how errors call it, `expected` what it should be. Raises InputError for a module that can't be imported, a function
    that isn't there or isn't one, and whatever it raises itself.
    """
    module_name, _, attribute = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise InputError(
            f"{source}: the module {module_name} can't be imported: {said(error)}",
            "check its name; it is looked for in the working directory and among the installed packages",
        ) from error
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, dir(module), 1)
        hint = f"did you mean `{module_name}:{close[0]}`?" if close else expected
        raise InputError(f"{source}: the module {module_name} has no {attribute!r}", hint)
    function = getattr(module, attribute)
    if not callable(function):
        raise InputError(f"{source}: expected a function, but {attribute!r} is {kind(function)}", expected)
    try:
        return function()
    except Exception as error:
        raise InputError(f"{source}: the function failed: {said(error)}", expected) from error


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def kind(value: Any) -> str:
    """A value's type, with its shape or length where it has one."""
    shape = getattr(value, "shape", None)
    described = f" of shape {tuple(shape)}" if isinstance(shape, tuple) else ""
    size = f" of length {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"{type(value).__module__}.{type(value).__qualname__}{described}{size}".removeprefix("builtins.")
