"""The keyword arguments by which callers say how an image is pulled before something is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from micropod_img.progress import ProgressSink
    from micropod_img.pull.options import Policy
    from micropod_img.pull.secret import Credential


class Pulling(TypedDict, total=False):
    """As `micropod_img.service.ImageService.pull_image` has them."""

    policy: Policy
    progress: ProgressSink | None
    auth: Credential | None
    insecure: bool
    timeout: float | None
    stall_timeout: float | None
