"""Images that a runtime can start: busybox, account files, and three layers that change one another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.images import image
from tests.support.layers import Entry, directory, layer, symlink, whiteout
from tests.support.processes import require_program

if TYPE_CHECKING:
    from tests.support.images import Manifest

REF = "local/runs:1"
PASSWD = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv/app:/bin/sh\n"
GROUP = b"app:x:1001:\ndisk:x:6:app\n"


def static_busybox() -> bytes:
    found = Path(require_program("busybox", package="busybox-static")).read_bytes()
    if b"/ld-linux" in found:
        pytest.fail("busybox needs libraries: apt-get install busybox-static", pytrace=False)
    return found


def runnable(busybox: bytes, **config: object) -> Manifest:
    """An image of three layers with a shell in it; the second and third change what is below."""
    base = [
        *(directory(name) for name in ("bin", "etc", "tmp", "data", "srv", "srv/app")),
        Entry("bin/busybox", busybox, mode=0o755),
        *(symlink(f"bin/{name}", "busybox") for name in ("sh", "cat", "id", "env", "ls", "touch", "pwd", "echo")),
        Entry("etc/passwd", PASSWD),
        Entry("etc/group", GROUP),
        Entry("base", b"from the base\n"),
        Entry("gone", b"whited out\n"),
        Entry("changed", b"before\n"),
        Entry("data/kept", b"in a volume\n"),
    ]
    middle = [whiteout("gone"), Entry("middle", b"from the middle\n"), Entry("changed", b"after\n")]
    top = [Entry("top", b"from the top\n"), Entry("srv/app/own", b"", uid=1000, gid=1001)]
    process = {"Env": ["PATH=/bin", "GREETING=hello world"], "Cmd": ["/bin/env"], **config}
    return image([layer(base), layer(middle), layer(top)], config={"config": process})
