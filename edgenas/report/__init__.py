"""The result of a build as one page that anybody can open."""

from edgenas.report.html import write

__all__ = ["write"]
