"""`edgenas search`: what `build` does up to and with the search, and the front that it found."""

from __future__ import annotations

from typing import Any

from edgenas.pipeline.context import opened_build
from edgenas.pipeline.request import BuildRequest, Effort
from edgenas.pipeline.searching import prepare, search_and_measure
from edgenas.progress import Progress


def search(
    request: BuildRequest, progress: Progress, effort: Effort | None = None, *, explain: bool = False
) -> dict[str, Any]:
    """Runs every stage that isn't cached yet and returns front.json's content. A build in the same folder goes on from there. With
    `explain`, zero-cost proxies stand beside what was evaluated, and how well they rank it. Raises InputError for what can't be
    searched."""
    with opened_build(request, progress, effort) as opened:
        from edgenas.pipeline import proxies
        from edgenas.pipeline.front import write_front
        from edgenas.report.front import write as write_page

        ground = prepare(opened)
        searched = search_and_measure(opened, ground)
        explained = proxies.explain(opened, ground, searched) if explain else None
        front = write_front(opened, ground, searched, searched.chosen.subnet, explained)
        write_page(request.out)
        return front
