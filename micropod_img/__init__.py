"""Container images for hosts without a daemon: pulled, kept in one OCI layout, turned into root filesystems.

The public API: `ImageService`, `Reference`, `MicropodError`, `diagnose`, and the values that they return. Each name is
imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from micropod_img.diagnosis import Diagnosis, Finding
    from micropod_img.doctor.examination import diagnose
    from micropod_img.errors import MicropodError
    from micropod_img.limits import Limits
    from micropod_img.models import DeleteResult, Image, Pod, PullReport
    from micropod_img.pull.options import PullOptions
    from micropod_img.reference import Reference
    from micropod_img.service import ImageService

__all__ = [
    "DeleteResult",
    "Diagnosis",
    "Finding",
    "Image",
    "ImageService",
    "Limits",
    "MicropodError",
    "Pod",
    "PullOptions",
    "PullReport",
    "Reference",
    "diagnose",
]

_HOMES = {
    "DeleteResult": "models",
    "Diagnosis": "diagnosis",
    "Finding": "diagnosis",
    "Image": "models",
    "ImageService": "service",
    "Limits": "limits",
    "MicropodError": "errors",
    "Pod": "models",
    "PullOptions": "pull.options",
    "PullReport": "models",
    "Reference": "reference",
    "diagnose": "doctor.examination",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - a package that is only looked at does not need it

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
