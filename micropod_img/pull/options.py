"""How callers want references to be pulled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from micropod_img.platforms import Platform
    from micropod_img.pull.secret import Credential

Policy: TypeAlias = Literal["missing", "newer", "always", "never"]
POLICIES: tuple[Policy, ...] = ("missing", "newer", "always", "never")


@dataclass(frozen=True, slots=True)
class PullOptions:
    """How references are pulled; the defaults are those of the configuration.

    Attributes:
        platform: ``os/arch[/variant]``; the host's if None.
        all_platforms: Whether the whole index is pulled.
        policy: When the network is asked: ``missing`` (if the image is not here), ``newer`` (for its digest, and for
            more if that moved), ``always``, ``never``.
        insecure: Whether plain HTTP, and HTTPS without verification, are allowed.
        timeout: Seconds for each reference.
        stall_timeout: Seconds without an answer or a new byte.
        auth: A credential, instead of those that files have.
        ca_file: Certificates of authorities to trust besides the system's.
        registries_conf: Read instead of the registries.conf of user and system.
    """

    platform: str | Platform | None = None
    all_platforms: bool = False
    policy: Policy = "missing"
    insecure: bool = False
    timeout: float | None = None
    stall_timeout: float | None = None
    auth: Credential | None = None
    ca_file: Path | None = None
    registries_conf: Path | None = None
