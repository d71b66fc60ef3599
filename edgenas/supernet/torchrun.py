"""Whether an outer torchrun started this process, and what for.

torchrun starts the whole command in every process, on one machine or several. The first one does all that the command does; the
others only take part in training, and get all they need for it (images, space, weights) from the first.
"""

from __future__ import annotations

import os


def process_count() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def is_extra_process() -> bool:
    return process_count() > 1 and os.environ["RANK"] != "0"
