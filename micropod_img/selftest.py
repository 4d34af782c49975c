"""Prove that the program works on this machine: a registry on loopback, an image made on the spot, every use case."""

from __future__ import annotations

import re
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from micropod_img import run
from micropod_img.errors import InternalError, MicropodError, ToolError
from micropod_img.platforms import Platform, host_platform
from micropod_img.sample_image import MOTD, write_sample_layout
from micropod_img.service import ImageService

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_REPOSITORY: Final = "selftest/sample"
_TAG: Final = "selftest:tagged"
_MOTD: Final = "etc/motd"
_LOOPBACK_HINT: Final = "is the interface lo up? (ip link set lo up)"
_NOT_POSSIBLE_HERE: Final = frozenset({"no-user-namespace", "tool-not-contained", "mount-permission", "driver-cannot"})
"""Errors that say what a machine does not let its users do, and nothing about this program."""

_READY_SECONDS: Final = 20.0
_PUSH_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was done, and the seconds that it took; or why it was skipped, as it cannot be done here."""

    name: str
    seconds: float
    skipped: str | None = None


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
    """Do with a sample image, in a private store, all that can be done; no network but loopback is needed.

    An ordinary user's process is in the user namespace of that store afterwards, if it may have one.

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

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Pass over a step that cannot be done here, and what follows it in the block."""
        try:
            yield
        except MicropodError as error:
            if self.current is None or error.code not in _NOT_POSSIBLE_HERE:
                raise
            self.done.append(Step(self.current, 0.0, error.message))
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
    with steps.skipping(), steps.step("unpack it"):
        files = service.unpack(ref, directory / "files", policy="never")
        _expect((files / _MOTD).read_bytes(), MOTD, _MOTD)
    try:
        with steps.skipping():
            _make_pods(service, ref, steps)
            _mount(service, ref, directory / "mounted", steps)
    finally:
        _leave_nothing_mounted(service)
    with steps.step("remove it"):
        service.delete_images([ref, _TAG])
        _expect(service.list_images(), [], "images")
        _expect(service.disk_usage().image_bytes, 0, "bytes")


def _make_pods(service: ImageService, ref: str, steps: _Steps) -> None:
    with steps.step("see what pods can be made with"):
        driver = service.driver_choice().driver
    with steps.step(f"make a pod with a bundle ({driver})"):
        pod = service.create_pod(ref, bundle=True, policy="never")
        _expect((pod.rootfs / _MOTD).read_bytes(), MOTD, _MOTD)
        _expect(pod.bundle, pod.rootfs.parent, "bundle")
    with steps.step("write to it, unmount it, and mount it again"):
        (pod.rootfs / "etc/written").write_bytes(b"kept")
        service.unmount_pod(pod.id)
        _expect((service.mount_pod(pod.id).rootfs / "etc/written").read_bytes(), b"kept", "etc/written")
    with steps.step("remove the pod"):
        service.remove_pod(pod.id)
        _expect(service.list_pods(), [], "pods")


def _mount(service: ImageService, ref: str, target: Path, steps: _Steps) -> None:
    with steps.step("mount the image, and unmount it"):
        target.mkdir()
        service.mount_image(ref, target, policy="never")
        try:
            _expect((target / _MOTD).read_bytes(), MOTD, _MOTD)
        finally:
            service.unmount_image(target)
        _expect(list(target.iterdir()), [], "files")


def _leave_nothing_mounted(service: ImageService) -> None:
    from micropod_img.rootfs import userns  # noqa: PLC0415 - what is above has loaded it if there is one
    from micropod_img.store.layout import StoreLayout  # noqa: PLC0415 - the same

    for pod in service.list_pods():
        service.remove_pod(pod.id)
    userns.stop(StoreLayout(service.root))


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
