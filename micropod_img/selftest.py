"""Prove that the program works on this machine: a registry on loopback, an image made on the spot, every use case."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img import media_types, run
from micropod_img.digest import Digest, hex_of, sha256_of
from micropod_img.errors import InternalError, MicropodError, ToolError
from micropod_img.platforms import Platform, host_platform
from micropod_img.service import ImageService

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_REPOSITORY: Final = "selftest/sample"
_TAG: Final = "selftest:tagged"
_LOOPBACK_HINT: Final = "is the interface lo up? (ip link set lo up)"
_READY_SECONDS: Final = 20.0
_PUSH_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.01
_LAYER_BYTES: Final = 1 << 20
_SEED: Final = b"micropod-img selftest"
_CREATED: Final = "2020-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was done, and the seconds that it took."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """How a self-test went.

    Attributes:
        steps: What worked, in order.
        failed: The step that failed; None if none did.
        error: Why it failed.
    """

    steps: tuple[Step, ...]
    failed: str | None = None
    error: MicropodError | None = None


def selftest(config: str | Path | None = None) -> SelfTestReport:
    """Pull, list, show, tag and remove a sample image in a private store; no network but loopback is needed.

    Args:
        config: A configuration file; the usual ones if None.

    Returns:
        What worked and how long it took. What this machine lacks is in the report, not raised.
    """
    steps = _Steps()
    try:
        with tempfile.TemporaryDirectory(prefix="micropod-selftest-") as directory:
            _run(Path(directory), config, steps)
    except MicropodError as error:
        return SelfTestReport(tuple(steps.done), steps.current, error)
    return SelfTestReport(tuple(steps.done))


class _Steps:
    """The steps so far, and the one that is being done."""

    def __init__(self) -> None:
        self.done: list[Step] = []
        self.current: str | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.current = name
        started = time.monotonic()
        yield
        self.done.append(Step(name, time.monotonic() - started))
        self.current = None


def _run(directory: Path, config: str | Path | None, steps: _Steps) -> None:
    with steps.step("check crane and umoci"):
        service = ImageService(directory / "store", config)
        service.tool_versions()
        crane = service.tool("crane").path
    environment = {"HOME": str(directory), "DOCKER_CONFIG": str(directory), "PATH": "/usr/bin:/bin"}
    with ExitStack() as servers:
        with steps.step("start a registry on loopback"):
            argv = [str(crane), "registry", "serve", "--address", "127.0.0.1:0"]
            registry = servers.enter_context(run.Child(argv, env=environment))
            ref = f"{_listening(registry)}/{_REPOSITORY}:1"
        with steps.step("make an image for two platforms and push it"):
            write_sample_layout(directory / "sample", (host_platform(), _another_platform()))
            _push(crane, directory / "sample", ref, environment)
        with steps.step("pull it"):
            image = service.pull_image(ref, platform=host_platform())
            _expect(len(image.layers), 3, "layers")
            _expect(image.platform, host_platform(), "platform")
    # From here on nobody is there to be asked.
    with steps.step("pull it again: it is here already"):
        _expect(service.pull_image(ref, platform=host_platform()).digest, image.digest, "digest")
    with steps.step("list it"):
        _expect([one.digest for one in service.list_images()], [image.digest], "images")
    with steps.step("inspect it"):
        _expect(service.get_image(image.digest).size, image.size, "size")
    with steps.step("tag it"):
        service.tag_image(ref, _TAG)
        _expect(service.get_image(_TAG).digest, image.digest, "digest")
    with steps.step("remove it"):
        service.delete_images([ref, _TAG])
        _expect(service.list_images(), [], "images")
        _expect(service.disk_usage().image_bytes, 0, "bytes")


def _another_platform() -> Platform:
    return Platform("linux", "amd64" if host_platform().architecture == "arm64" else "arm64")


def _listening(child: run.Child) -> str:
    """Wait until the registry says where it listens; return its ``host:port``."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        ended = child.wait(_POLL_SECONDS)
        if match := re.search(r"serving on port (\d+)", child.stderr_so_far()):
            return f"127.0.0.1:{match[1]}"
        if ended:
            break
    raise ToolError(
        "the registry that crane has did not start on loopback",
        code="tool-broken",
        hint=_LOOPBACK_HINT,
        detail=child.stderr_so_far(),
    )


def _push(crane: Path, layout: Path, ref: str, environment: Mapping[str, str]) -> None:
    argv = [str(crane), "push", "--index", str(layout), ref]
    try:
        completed = run.run(argv, env=environment, timeout=_PUSH_SECONDS)
    except (run.ProgramNotFoundError, run.ChildTimeoutError) as error:
        raise ToolError(f"crane could not push to {ref}: {error!r}", code="tool-broken") from error
    if completed.status != 0:
        raise ToolError(
            f"crane could not push to {ref}", code="tool-broken", hint=_LOOPBACK_HINT, detail=completed.stderr
        )


def _expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise InternalError(f"the self-test expected {what} {wanted}, and found {found}", code="selftest")


def write_sample_layout(layout: Path, platforms: Sequence[Platform]) -> None:
    """Write an OCI image layout (image-spec, image-layout.md) with an image of three layers for each platform.

    The lowest layer is shared by all of them.

    Args:
        layout: A directory that does not exist.
        platforms: What there are images for.
    """
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    base = _tar({"etc/motd": b"micropod-img works here\n", "usr/share/noise": _noise(b"base")})
    manifests = []
    for platform in platforms:
        name = str(platform).encode()
        layers = (base, _tar({"etc/platform": name}), _tar({"usr/bin/noise": _noise(name)}))
        manifests.append({**_write_image(blobs, platform, layers), "platform": _fields(platform)})
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": manifests}
    (layout / "index.json").write_bytes(_json(index))
    (layout / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))


def _write_image(blobs: Path, platform: Platform, layers: Sequence[bytes]) -> dict[str, object]:
    """Write one image; return its descriptor."""
    config = {
        **_fields(platform),
        "created": _CREATED,
        "config": {"Cmd": ["/usr/bin/noise"]},
        "rootfs": {"type": "layers", "diff_ids": [sha256_of(layer) for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": _write_blob(blobs, _json(config), media_types.OCI_CONFIG),
        "layers": [_write_blob(blobs, gzip.compress(layer, compresslevel=1, mtime=0), _LAYER_TYPE) for layer in layers],
    }
    return _write_blob(blobs, _json(manifest), media_types.OCI_MANIFEST)


def _write_blob(blobs: Path, content: bytes, media_type: str) -> dict[str, object]:
    digest: Digest = sha256_of(content)
    (blobs / hex_of(digest)).write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _tar(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of files; the same one every time."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _noise(name: bytes) -> bytes:
    """Return bytes that do not compress, so that there is something to transfer."""
    import hashlib  # noqa: PLC0415 - nothing else here hashes by hand

    return hashlib.shake_128(_SEED + name).digest(_LAYER_BYTES)


def _fields(platform: Platform) -> dict[str, str]:
    fields = {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}
    return {key: value for key, value in fields.items() if value}


def _json(document: object) -> bytes:
    return json.dumps(document).encode()
