"""``pod.json``: what a pod is made of. It is what garbage collection trusts, and all that is known after a reboot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from micropod_img.errors import IntegrityError
from micropod_img.rootfs.chain import ChainId
from micropod_img.store.documents import Members, corrupt, members_of

if TYPE_CHECKING:
    from micropod_img.digest import Digest

_SCHEMA: Final = 1
_HINT = "micropod-img pod rm removes the pod; what it wrote is in its directory"


@dataclass(frozen=True, slots=True)
class PodRecord:
    """The unchanging facts of a pod; see `micropod_img.models.Pod`."""

    id: str
    ref: str
    image_digest: Digest
    chain_ids: tuple[ChainId, ...]
    driver: str
    read_only: bool
    created_at: datetime

    @property
    def is_copy(self) -> bool:
        """Whether its files are there without a mount, and for everybody."""
        return self.driver == "copy"

    def serialize(self) -> bytes:
        """Return the content of ``pod.json``."""
        document = {
            "schema": _SCHEMA,
            "id": self.id,
            "ref": self.ref,
            "image_digest": self.image_digest,
            "chain_ids": list(self.chain_ids),
            "driver": self.driver,
            "read_only": self.read_only,
            "created_at": self.created_at.isoformat(),
        }
        return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def parse_pod_record(content: bytes, *, name: str) -> PodRecord:
    """Read ``pod.json``.

    Args:
        content: Its content.
        name: What to call it in errors.

    Raises:
        IntegrityError: It is not what was written.
    """
    try:
        return _record(members_of(content, name), name)
    except IntegrityError as error:
        raise IntegrityError(error.message, code="corrupt-pod", hint=_HINT) from error


def _record(members: Members, name: str) -> PodRecord:
    try:
        created_at = datetime.fromisoformat(members.text("created_at"))
    except ValueError as error:
        raise corrupt(name, "created_at is not a time") from error
    if members.mapping.get("schema") != _SCHEMA:
        raise corrupt(name, f"it is not of schema {_SCHEMA}")
    return PodRecord(
        id=members.text("id"),
        ref=members.text("ref"),
        image_digest=members.digest("image_digest"),
        chain_ids=tuple(ChainId(Members({"": item}, name).digest("")) for item in members.items("chain_ids")),
        driver=members.text("driver"),
        read_only=members.mapping.get("read_only") is True,
        created_at=created_at,
    )
