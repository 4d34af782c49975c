"""What `diagnose` says to somebody without rights, who needs a user namespace and subordinate ids for pods."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from micropod_img.rootfs.userns import COST_OF_ONE_ID
from tests.doctor.test_doctor import TELL
from tests.rootfs.unpacking import as_root
from tests.support.ordinary_user import OrdinaryUser, ordinary_user
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


MAKE = """
import sys
from micropod_img import ImageService
service = ImageService(sys.argv[1])
service._store.prepare()
for name in ("pods", "snapshots"):
    (service.root / name).mkdir()
"""


@pytest.fixture
def user(crane: Path) -> Iterator[OrdinaryUser]:
    assert crane
    with ordinary_user() as one:
        yield one


@pytest.fixture(scope="module")
def settled(crane: Path) -> Iterator[OrdinaryUser]:
    """Somebody who has a store."""
    assert crane
    with ordinary_user() as one:
        made = one.python(MAKE, one.home / "store")
        assert made.returncode == 0, made.stderr
        yield one


def told(user: OrdinaryUser) -> dict[str, list[object]]:
    done = user.python(TELL, user.home / "store")
    assert done.returncode == 0, done.stderr
    return {subject: rest for subject, *rest in json.loads(done.stdout)}


def in_their_namespace(user: OrdinaryUser, *argv: str | Path) -> None:
    done = run("nsenter", f"--target={user.namespace}", "--mount", *argv)
    assert done.returncode == 0, done.stderr


@as_root
def test_a_user_with_subordinate_ids_has_all_of_it_and_nothing_is_made(user: OrdinaryUser) -> None:
    found = told(user)
    assert [rest for rest in found.values() if rest[2] != 0] == []
    assert found["user-namespaces"][:2] == ["ok", "allowed; none is there now"]
    assert found["subordinate-ids"][:2] == ["ok", "65536 user and 65536 group ids"]
    assert str(found["driver"][1]).startswith("overlay-userxattr: ")
    assert list(user.home.iterdir()) == []


@as_root
def test_a_user_without_subordinate_ids_is_told_what_that_costs(crane: Path) -> None:
    assert crane
    with ordinary_user(subordinate_ids=False) as user:
        assert told(user)["subordinate-ids"] == ["warning", COST_OF_ONE_ID, 0]


@as_root
def test_a_newuidmap_without_rights_is_a_problem(user: OrdinaryUser, tmp_path: Path) -> None:
    powerless = tmp_path / "newuidmap"
    shutil.copy("/usr/bin/newuidmap", powerless)
    powerless.chmod(0o755)
    in_their_namespace(user, "mount", "--bind", powerless, "/usr/bin/newuidmap")
    state, message, status = told(user)["subordinate-ids"]
    assert (state, status) == ("problem", 8)
    assert "/usr/bin/newuidmap are without the rights" in str(message)


@as_root
def test_the_store_of_root_is_not_theirs(user: OrdinaryUser) -> None:
    (user.home.parent / "roots").mkdir(mode=0o700)
    done = user.python(TELL, user.home.parent / "roots")
    assert done.returncode == 0, done.stderr
    assert ["store", "problem", 10] in [
        [subject, state, status] for subject, state, _, status in json.loads(done.stdout)
    ]


@as_root
@pytest.mark.parametrize(
    ("closed", "subject", "status"),
    [
        ("store", "store", 10),
        ("store/images", "store", 10),
        ("store/images/blobs/sha256", "store", 10),
        ("store/pods", "store", 10),
        ("store/snapshots", "store", 10),
        ("store/locks", "store", 10),
        ("store/tmp", "store", 10),
        (".config/micropod", "configuration", 2),
        (".config/containers", "registries.conf", 2),
        (".docker", "credentials", 4),
    ],
)
def test_what_they_may_not_look_into_is_said_and_nothing_crashes(
    settled: OrdinaryUser, closed: str, subject: str, status: int
) -> None:
    place = settled.home / closed
    close = f"mkdir -p {place} && touch {place}/config.toml {place}/registries.conf && chmod 0 {place}"
    done = settled.run("sh", "-c", close)
    assert done.returncode == 0, done.stderr
    try:
        found = [[one, rest[2]] for one, rest in told(settled).items()]
        assert [subject, status] in found, found
    finally:
        settled.run("sh", "-c", f"chmod 700 {place} && rm {place}/config.toml {place}/registries.conf")


@as_root
def test_where_they_cannot_write_no_store_can_be_made(user: OrdinaryUser) -> None:
    done = user.python(TELL, "/nowhere/store")
    assert done.returncode == 0, done.stderr
    found = {subject: rest for subject, *rest in json.loads(done.stdout)}
    assert found["store"] == ["problem", "/nowhere/store is not there, and you cannot write to /", 10]
    assert found["driver"][:2] == ["warning", "nothing can be tried where nothing can be written"]


@as_root
def test_where_no_user_namespace_is_allowed_the_setting_is_named(user: OrdinaryUser, tmp_path: Path) -> None:
    """As a kernel with this setting would do it, which holds for the whole machine."""
    setting, refusing = tmp_path / "setting", tmp_path / "unshare"
    setting.write_text("0\n")
    refusing.write_text("#!/bin/sh\necho 'unshare: unshare failed: No space left on device' >&2\nexit 1\n")
    refusing.chmod(0o755)
    in_their_namespace(user, "mount", "--bind", setting, "/proc/sys/user/max_user_namespaces")
    in_their_namespace(user, "mount", "--bind", refusing, "/usr/bin/unshare")
    found = told(user)
    assert found["user-namespaces"][0::2] == ["problem", 8]
    assert "user.max_user_namespaces is 0" in str(found["user-namespaces"][1])
    assert "driver" not in found
