"""Directories of a store that its owner may not write, or not read: status 10, and what is there stays as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.ordinary_user import ordinary_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ordinary_user import OrdinaryUser

# Argv: the store, a directory in it, its mode. Says how each command ended: ``ok``, or status and code.
TRIES = """
import json, sys
from pathlib import Path
from micropod_img.errors import MicropodError
from tests.rootfs.local_images import LocalService
from tests.support.images import image
from tests.support.layers import layer

root, closed = Path(sys.argv[1]), Path(sys.argv[1], sys.argv[2])
service = LocalService(root)
for name in ("here", "other"):
    service.put(image([layer({"etc/image": name.encode()})]), f"local/{name}:1")
before = (root / "images/index.json").read_bytes()
commands = {
    "images": lambda: service.list_images(),
    "df": lambda: service.disk_usage(),
    "pod ls": lambda: service.list_pods(),
    "pull of what is here": lambda: service.pull_image("local/here:1", platform="linux/amd64"),
    "tag": lambda: service.tag_image("local/here:1", "local/new:1"),
    "gc": lambda: service.collect_garbage(),
    "rmi": lambda: service.delete_image("local/other:1"),
}
said = {}
closed.chmod(int(sys.argv[3], 8))
for name, command in commands.items():
    try:
        command()
    except MicropodError as error:
        said[name] = [error.exit_status, error.code]
    else:
        said[name] = "ok"
closed.chmod(0o700)
said["unchanged"] = (root / "images/index.json").read_bytes() == before
said["problems"] = [problem.message for problem in service.verify().problems]
print(json.dumps(said))
"""
READING = ("images", "df", "pod ls", "pull of what is here")
REFUSED = [10, "permission"]


@pytest.fixture(scope="module")
def user() -> Iterator[OrdinaryUser]:
    with ordinary_user() as made:
        yield made


def tried(user: OrdinaryUser, directory: str, mode: str) -> dict[str, object]:
    name = f"{directory.replace('/', '-')}-{mode}"
    done = user.python(TRIES, user.home / name, directory, mode)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert isinstance(said, dict)
    return said


@pytest.mark.parametrize("directory", ["locks", "tmp", "images"])
def test_a_directory_that_may_not_be_written_lets_who_reads_go_on(directory: str, user: OrdinaryUser) -> None:
    said = tried(user, directory, "0500")

    assert [said[name] for name in READING] == ["ok"] * len(READING)
    assert said["tag"] == REFUSED
    assert said["rmi"] == REFUSED
    assert said["unchanged"]
    assert said["problems"] == []


@pytest.mark.parametrize(
    ("directory", "refused"),
    [
        ("images", ("images", "df", "pull of what is here", "tag", "gc", "rmi")),
        ("images/blobs/sha256", ("images", "df", "pull of what is here", "gc", "rmi")),  # a tag needs no blob
    ],
)
def test_a_directory_that_may_not_be_read_is_said_to_be(
    directory: str, refused: tuple[str, ...], user: OrdinaryUser
) -> None:
    said = tried(user, directory, "0000")

    assert [said[name] for name in refused] == [REFUSED] * len(refused)
    assert said["problems"] == []
