"""Every fault of docs/registries.md, at a store that holds an image: nothing that is here is ever lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import MicropodError
from micropod_img.pull import retry
from micropod_img.pull.options import PullOptions
from micropod_img.service import ImageService
from tests.soak.outcome import Outcome
from tests.support import stores
from tests.support.images import image
from tests.support.layers import layer
from tests.support.network_faults import CASES, IMAGE, SMALL
from tests.support.scripted import scripted_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.soak.outcome import Plan
    from tests.support.network_faults import Case

_AT_ONCE = 4
_SAMPLE = 5
_KEPT = image([SMALL, layer({"kept": b"kept"})])


def run(plan: Plan) -> Outcome:
    """Pull through each fault, and then without it."""
    names = list(CASES)[:: _SAMPLE if plan.short else 1]
    config = plan.directory / "config.toml"
    (plan.directory / "registries.conf").touch()
    config.write_text('registries-conf = "registries.conf"\nplatform = "linux/amd64"\n')
    lost: list[str] = []
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(_AT_ONCE) as executor:
        patch.setattr(retry, "_FIRST_DELAY", 0.01)
        for attempts in sorted({CASES[name].attempts for name in names}):
            patch.setattr(retry, "ATTEMPTS", attempts)  # of the whole process: those of a kind go together
            alike = [name for name in names if CASES[name].attempts == attempts]
            found = executor.map(lambda name: list(_broken_by(CASES[name], plan.directory / name, config)), alike)
            lost += [f"{name}: {line}" for name, lines in zip(alike, found, strict=True) for line in lines]
    survived = sum(CASES[name].code is None for name in names)
    return Outcome("faults", len(names), tuple(lost), {"pulled through": str(survived)})


def _broken_by(case: Case, root: Path, config: Path) -> Iterator[str]:
    """Yield what a fault did that it must not do."""
    root.mkdir(mode=0o700)
    service = ImageService(root, config)
    with scripted_registry() as registry:
        kept = service.pull_image(registry.serve("kept", "v1", _KEPT))
        name = registry.serve("some/image", "v1", IMAGE)
        registry.faults = case.faults(registry)
        report = service.pull_images([name], PullOptions(timeout=case.timeout, stall_timeout=case.stall))
        codes = [failure.error.code for failure in report.failures]
        if codes != ([] if case.code is None else [case.code]):
            yield f"ended with {codes}"
        if kept.ref not in [listed for listed, _ in stores.listed(root)]:
            yield "what was here is not listed any more"
        yield from stores.problems(root)
        registry.faults = ()
        try:
            service.pull_image(name)
        except MicropodError as error:
            yield f"the next pull failed: {error}"
        yield from stores.problems(root)
