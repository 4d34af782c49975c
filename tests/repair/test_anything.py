"""`verify --repair` after killed programs, beside others, and after damage anywhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from micropod_img.service import ImageService
from tests.repair.filled import AMD64, ARM64, BASE, OTHER, TOP, Here, done, service_on
from tests.store import damage
from tests.support import stores
from tests.support.faults import on, stalled
from tests.support.images import image
from tests.support.layers import random_layer
from tests.support.layouts import put_blob
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted import ScriptedRegistry


# crane in the layout itself


def test_a_layout_in_which_a_crane_was_killed_is_verified_and_repaired(
    crane: Path, scripted: ScriptedRegistry, service: ImageService
) -> None:
    here = Here(service, scripted)
    here.fill()
    big = image([BASE, random_layer(2_000_000)])
    source = scripted.serve("big", "1", big)
    scripted.faults = (on(f"/blobs/{big.layers[1].digest}", stalled(1_000_000)),)
    torn = here.root / "images/blobs/sha256"
    argv = [str(crane), "pull", "--format=oci", "--platform=linux/amd64", source, str(here.root / "images")]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as pulling:
        try:
            wait_until(lambda: any(len(path.name) > 64 and path.stat().st_size >= 900_000 for path in torn.iterdir()))
            assert service.verify().problems == ()  # as long as it writes
        finally:
            pulling.kill()
    assert [one.code for one in service.verify().problems] == ["misnamed-blob"]
    assert [one.digest for one in service.list_images() if one.ref == here.other] == [OTHER.digest]
    found = here.repair()
    assert (found.problems, done(found)) == ((), ["removed-file"])
    scripted.faults = ()
    assert service.pull_image(source).digest == big.digest
    assert service.verify().problems == ()
    assert stores.problems(here.root) == []


# Beside others


@pytest.mark.slow
def test_a_repair_beside_pulls_and_removals_loses_nothing(here: Here) -> None:
    churn = (
        "import sys\nfrom pathlib import Path\n"
        "from micropod_img.store.removal import collect_garbage, remove_images\n"
        "from micropod_img.store.store import Store\n"
        "from tests.store.test_verification import churning\n"
        "from tests.support.publishing import publish\n"
        "store = Store(Path(sys.argv[1]))\nprint(flush=True)\n"
        "while True:\n"
        "    for number in range(4):\n"
        "        publish(store, 'churn:1', churning(number))\n"
        "        collect_garbage(store)\n"
        "    remove_images(store, ['churn:1'])\n"
    )
    listed = here.listed()
    spare = random_layer(10)
    with subprocess.Popen([sys.executable, "-c", churn, str(here.root)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            for _ in range(8):
                damage.flipped(TOP)(here.root)
                put_blob(here.root / "images", spare).write_bytes(b"torn")
                found = here.repair()
                # What a pull over a name that moved left behind is adopted, as podman keeps it, without a name.
                assert (found.problems, set(done(found)) - {"removed-blob", "adopted-image"}) == ((), {"fetched-image"})
            assert other.poll() is None
        finally:
            other.kill()
    assert {one for one in here.listed() if one[0] and "churn" not in one[0]} == listed
    assert here.service.verify().problems == ()


# Anything


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=strategies.data())
def test_a_byte_changed_or_a_file_cut_or_gone_anywhere_is_found_and_repaired(
    data: strategies.DataObject, filled: Path, registry: ScriptedRegistry, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("any")
    root = directory / "store"
    shutil.copytree(filled, root)
    here = Here(service_on(root, directory), registry)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.parent.name != "reserve")
    path = data.draw(strategies.sampled_from(files), label="file")
    content = path.read_bytes()
    kind = data.draw(strategies.sampled_from(["byte", "cut", "gone", "zeros", "longer"]))
    position = data.draw(strategies.integers(0, len(content) - 1))
    bent = {
        "byte": content[:position]
        + bytes([content[position] ^ data.draw(strategies.integers(1, 255))])
        + content[position + 1 :],
        "cut": content[:position],
        "zeros": bytes(len(content)),
        "longer": content + b"x",
        "gone": None,
    }[kind]
    path.unlink() if bent is None else path.write_bytes(bent)

    service = ImageService(root, directory / "config.toml", damaged=True)
    before = service.verify()
    service.repair()
    after = ImageService(root, directory / "config.toml").verify()
    assert after.problems == ()
    assert {one.digest for one in here.service.list_images()} == {AMD64.digest, ARM64.digest, OTHER.digest}
    if path.name != "index.json" and not (path.name == "version" and bent is None):
        assert before.problems  # a word of the index may have become another that is as good
