from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from micropod_img.errors import UnsafeError, UnsupportedError
from micropod_img.rootfs.confined import ConfinedRoot
from micropod_img.rootfs.users import AccountFiles, ProcessUser, read_account_files, resolve_user

if TYPE_CHECKING:
    from pathlib import Path

FILES = AccountFiles(
    passwd=b"""\
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33::/var/www:/bin/false
app:x:1000:1001:An app,,,:/srv/app:/bin/sh
app:x:0:0:the second of this name:/root:/bin/sh
1234:x:0:0:a name of digits:/root:/bin/sh
empty:x:::no ids:/root:/bin/sh
minus:x:-1:-1::/:/bin/sh
huge:x:4294967296:4294967296::/:/bin/sh
short:x:0
+nis::::::
# comment:x:0:0::/:
odd:x:1500:1500::relative/home:/bin/sh
\xff\xfe:x:1600:1600::/home/\xff:/bin/sh
""",
    group=b"""\
root:x:0:root
tty:x:5:
disk:x:6:root,app
www-data:x:33:
staff:x:50:www-data, app,app
app:x:1001:app
wheel:x:10:app
torn:x:
""",
)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        pytest.param("", ProcessUser(0, 0, (0, 6), "/root"), id="nobody named is root"),
        pytest.param("root", ProcessUser(0, 0, (0, 6), "/root"), id="root, with its groups"),
        pytest.param("0", ProcessUser(0, 0, (0, 6), "/root"), id="root by number"),
        pytest.param("www-data", ProcessUser(33, 33, (33, 50), "/var/www"), id="name"),
        pytest.param("app", ProcessUser(1000, 1001, (6, 10, 50, 1001), "/srv/app"), id="the first of two"),
        pytest.param("1000", ProcessUser(1000, 1001, (6, 10, 50, 1001), "/srv/app"), id="number of an account"),
        pytest.param("app:", ProcessUser(1000, 1001, (6, 10, 50, 1001), "/srv/app"), id="empty group"),
        pytest.param("4711", ProcessUser(4711, 0, (0,), "/"), id="number of nobody"),
        pytest.param("1234", ProcessUser(1234, 0, (0,), "/"), id="digits are a number, never a name"),
        pytest.param("app:staff", ProcessUser(1000, 50, (50,), "/srv/app"), id="a group leaves no other groups"),
        pytest.param("app:7", ProcessUser(1000, 7, (7,), "/srv/app"), id="name and number"),
        pytest.param("7:8", ProcessUser(7, 8, (8,), "/"), id="numbers"),
        pytest.param("7:tty", ProcessUser(7, 5, (5,), "/"), id="number and name"),
        pytest.param(":tty", ProcessUser(0, 5, (5,), "/root"), id="group alone"),
        pytest.param("odd", ProcessUser(1500, 1500, (1500,), "/"), id="a relative home is none"),
        pytest.param("1600", ProcessUser(1600, 1600, (1600,), "/"), id="a home that is no text is none"),
        pytest.param("2147483647", ProcessUser(2147483647, 0, (0,), "/"), id="the largest number"),
    ],
)
def test_a_user_is_who_the_image_says(user: str, expected: ProcessUser) -> None:
    assert resolve_user(user, FILES) == expected


@pytest.mark.parametrize(
    "user",
    [
        *("nobody", "App", "app ", " app", "-1", "+5", "0x0", "\u0663", "1.0", "\x1b[31m"),
        *("2147483648", "4294967295", "99999999999999999999", "empty", "minus", "huge", "short", "+nis", "# comment"),
        *("x:app", "app:nogroup", "app:-1", "0:torn", "app:staff:x", "app:4294967295", "0:\u0663"),
    ],
)
def test_a_user_that_the_image_does_not_know_is_an_error_and_not_root(user: str) -> None:
    with pytest.raises(UnsupportedError) as refusal:
        resolve_user(user, FILES)
    assert refusal.value.code == "unknown-user"
    assert refusal.value.message.isprintable()


@pytest.mark.parametrize("user", ["app", "root", "1000:staff"])
def test_without_account_files_names_are_unknown(user: str) -> None:
    with pytest.raises(UnsupportedError, match="/etc/"):
        resolve_user(user, AccountFiles())


def test_account_files_come_from_inside(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("app:x:0:0::/:")
    (tmp_path / "rootfs/etc").mkdir(parents=True)
    (tmp_path / "rootfs/usr/etc").mkdir(parents=True)
    (tmp_path / "rootfs/etc/passwd").symlink_to("../../passwd")
    (tmp_path / "rootfs/usr/etc/group").write_text("staff:x:50:")
    (tmp_path / "rootfs/etc/group").symlink_to("/usr/etc/group")
    with ConfinedRoot(tmp_path / "rootfs") as root:
        assert read_account_files(root) == AccountFiles(b"", b"staff:x:50:")


def test_an_account_file_out_of_proportion_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with (tmp_path / "etc/passwd").open("wb") as file:
        file.truncate((4 << 20) + 1)
    with ConfinedRoot(tmp_path) as root, pytest.raises(UnsafeError, match="4 MiB"):
        read_account_files(root)
