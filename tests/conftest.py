"""What holds for every test: no time limit per example, and a user folder of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("edgenas", deadline=None)  # machines that run tests are slow now and then
settings.load_profile("edgenas")


@pytest.fixture(scope="session", autouse=True)
def edgenas_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the developer's own devices and tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_HOME", str(tmp_path_factory.mktemp("home")))
        yield
