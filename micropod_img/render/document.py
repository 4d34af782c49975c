"""The JSON that scripts rely on (CONTRACT.md, "JSON"); its shape is versioned, and pinned by tests/cli/test_json.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, Union

from micropod_img.render.text import timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from micropod_img.errors import MicropodError
    from micropod_img.models import DeleteResult, Image, PullReport
    from micropod_img.reports import PullPlan, PushReport, StoreUsage, ToolVersion

JsonValue: TypeAlias = Union[bool, int, float, str, "Sequence[JsonValue]", "Mapping[str, JsonValue]", None]
JsonObject: TypeAlias = Mapping[str, JsonValue]

SCHEMA: Final = 1


def document(command: str | None, data: JsonObject | None, error: MicropodError | None) -> str:
    """Return the one document of a command.

    Args:
        command: Its name; None if the command line names none.
        data: What it has to say; None if it failed as a whole.
        error: What failed, or the first of what failed.
    """
    import json  # noqa: PLC0415 - most calls want text

    envelope = {
        "schema": SCHEMA,
        "command": command,
        "ok": error is None,
        "data": data,
        "error": None if error is None else error_object(error),
    }
    return json.dumps(envelope, indent=2)


def error_object(error: MicropodError) -> JsonObject:
    """Return an error as JSON."""
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "stage": error.stage,
        "endpoint": error.endpoint,
        "retryable": error.retryable,
        "exit_status": error.exit_status,
        "detail": error.detail,
    }


def image_object(image: Image) -> JsonObject:
    """Return an image as JSON; times are RFC 3339 in UTC, sizes are bytes."""
    return {
        "ref": image.ref,
        "digest": image.digest,
        "index_digest": image.index_digest,
        "media_type": image.media_type,
        "platform": str(image.platform),
        "config_digest": image.config_digest,
        "layers": [
            {"digest": layer.digest, "diff_id": layer.diff_id, "media_type": layer.media_type, "size": layer.size}
            for layer in image.layer_details
        ],
        "size": image.size,
        "created": timestamp(image.created),
        "pulled_at": timestamp(image.pulled_at),
        "last_used_at": timestamp(image.last_used_at),
    }


def images_object(images: Iterable[Image]) -> JsonObject:
    """Return the data of ``images``."""
    return {"images": [image_object(image) for image in images]}


def pull_object(report: PullReport) -> JsonObject:
    """Return the data of ``pull``."""
    return {
        "images": [image_object(image) for image in report.images],
        "failures": [{"ref": failure.ref, "error": error_object(failure.error)} for failure in report.failures],
        "downloaded_bytes": report.downloaded_bytes,
        "reused_bytes": report.reused_bytes,
    }


def plan_object(plan: PullPlan) -> JsonObject:
    """Return what ``pull --plan`` says of one reference."""
    return {
        "ref": plan.ref,
        "digest": plan.digest,
        "platform": None if plan.platform is None else str(plan.platform),
        "fetch": plan.fetch,
        "endpoints": [
            {
                "host": one.host,
                "reference": one.reference,
                "mirror": one.is_mirror,
                "insecure": one.insecure,
                "credential_source": one.credential_source,
                "answer": one.answer,
            }
            for one in plan.endpoints
        ],
        "layers": [{"digest": one.digest, "size": one.size, "present": one.present} for one in plan.layers],
        "download_bytes": plan.download_bytes,
        "present_bytes": plan.present_bytes,
        "needed_bytes": plan.needed_bytes,
        "free_bytes": plan.free_bytes,
    }


def plans_object(plans: Iterable[PullPlan], failures: Iterable[tuple[str, MicropodError]]) -> JsonObject:
    """Return the data of ``pull --plan``."""
    return {
        "plans": [plan_object(plan) for plan in plans],
        "failures": [{"ref": ref, "error": error_object(error)} for ref, error in failures],
    }


def push_object(report: PushReport) -> JsonObject:
    """Return the data of ``push``."""
    return {
        "ref": report.ref,
        "digest": report.digest,
        "media_type": report.media_type,
        "pushed_bytes": report.pushed_bytes,
        "present_bytes": report.present_bytes,
    }


def deletion_object(result: DeleteResult) -> JsonObject:
    """Return the data of ``rmi`` and ``gc``."""
    return {"removed": list(result.removed), "freed_bytes": result.freed_bytes}


def usage_object(usage: StoreUsage) -> JsonObject:
    """Return the data of ``df``."""
    return {
        "images": [
            {
                "ref": one.image.ref,
                "digest": one.image.digest,
                "platform": str(one.image.platform),
                "shared_bytes": one.shared_bytes,
                "own_bytes": one.own_bytes,
            }
            for one in usage.images
        ],
        "image_bytes": usage.image_bytes,
        "unreferenced_bytes": usage.unreferenced_bytes,
        "staging_bytes": usage.staging_bytes,
    }


def version_object(version: str, tools: Iterable[ToolVersion]) -> JsonObject:
    """Return the data of ``version``."""
    return {
        "version": version,
        "tools": [{"name": tool.name, "version": tool.version, "path": tool.path} for tool in tools],
    }
