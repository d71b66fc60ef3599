"""The settings of the space that a build searches, written beside its result: to be looked at, edited and given back as `--space`."""

from __future__ import annotations

from edgenas.pipeline.context import Build
from edgenas.spaces.space_file import text_of
from edgenas.store import write_text

FILE_NAME = "space.yaml"


def write_settings(build: Build) -> None:
    """`space.yaml` in the build's folder; nothing for the space of a user's own model."""
    text = text_of(build.space)
    if text is not None:
        write_text(build.request.out / FILE_NAME, text)
