from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import micropod_img
from micropod_img.errors import InvalidReference, MicropodError
from micropod_img.models import Image, Pod
from micropod_img.pull.keywords import Pulling
from micropod_img.reference import Reference
from micropod_img.service import ImageService
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).parent.parent


def modules_after(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded for a statement, beyond those it starts with."""
    script = f"import sys; before = set(sys.modules)\n{statement}\nimport json; print(json.dumps(sorted(sys.modules)))"
    done = run(sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n{script}")
    done.check_returncode()
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_none_of_its_modules() -> None:
    assert {name for name in modules_after("import micropod_img") if name.startswith("micropod_img.")} == set()


@pytest.mark.parametrize(
    ("statement", "costly"),
    [
        ("import micropod_img; micropod_img.Reference", {"pydantic", "typer", "subprocess", "hashlib"}),
        ("from micropod_img import MicropodError", {"pydantic", "typer", "subprocess", "hashlib"}),
        ("from micropod_img import ImageService", {"pydantic", "typer", "subprocess", "tempfile"}),
        ("import micropod_img.store.store", {"pydantic", "typer", "subprocess", "tempfile"}),
    ],
)
def test_a_name_costs_only_what_it_needs(statement: str, costly: set[str]) -> None:
    assert modules_after(statement) & costly == set()


def test_every_public_name_is_there_and_found_by_looking() -> None:
    for name in micropod_img.__all__:
        assert getattr(micropod_img, name).__name__ == name
    assert set(micropod_img.__all__) <= set(dir(micropod_img))
    assert micropod_img.ImageService is ImageService
    assert micropod_img.Reference is Reference
    assert micropod_img.MicropodError is MicropodError


def test_all_public_names_can_be_imported_at_once() -> None:
    found: dict[str, object] = {}
    exec("from micropod_img import *", found)  # noqa: S102 - a star is allowed at module level only
    assert set(micropod_img.__all__) <= set(found)


def test_a_name_that_is_not_public_is_not_there() -> None:
    assert not hasattr(micropod_img, "NoSuchName")
    with pytest.raises(AttributeError, match="module 'micropod_img' has no attribute 'NoSuchName'"):
        micropod_img.NoSuchName  # noqa: B018
    with pytest.raises(ImportError):
        exec("from micropod_img import NoSuchName", {})  # noqa: S102 - the linter would see it otherwise


ERROR = ("code", "message", "hint", "exit_status", "stage", "endpoint", "retryable")
PULLING = {"policy": "missing", "progress": None, "auth": None, "insecure": False}
CONTRACT: dict[str, tuple[list[str], dict[str, object]]] = {
    "pull_image": (["ref"], {"platform": None, "all_platforms": False, **PULLING}),
    "get_image": (["ref"], {"platform": None}),
    "list_images": ([], {}),
    "unpack": (["ref", "dest"], {"platform": None, **PULLING}),
    "delete_image": (["ref"], {}),
    "create_pod": (
        ["ref"],
        {
            "pod_id": None,
            "platform": None,
            "bundle": False,
            "args": None,
            "read_only": False,
            "terminal": False,
            **PULLING,
        },
    ),
    "get_pod": (["pod_id"], {}),
    "list_pods": ([], {}),
    "remove_pod": (["pod_id"], {}),
    "mount_pod": (["pod_id"], {}),
    "unmount_pod": (["pod_id"], {}),
    "mount_image": (["ref", "directory"], {"platform": None, **PULLING}),
    "unmount_image": (["directory"], {}),
}


@pytest.mark.parametrize("name", CONTRACT)
def test_a_use_case_takes_what_callers_may_give_it(name: str) -> None:
    positional, keywords = CONTRACT[name]
    parameters = dict(inspect.signature(getattr(ImageService, name)).parameters)
    assert [name for name in parameters if parameters[name].default is inspect.Parameter.empty][1:] in (
        positional,
        [*positional, "pull"],
    )
    if parameters.pop("pull", None) is not None:
        assert set(Pulling.__annotations__) >= set(PULLING)
        assert PULLING.items() <= _defaults(ImageService.pull_image).items()
        keywords = {key: value for key, value in keywords.items() if key not in PULLING}
    assert keywords.items() <= _defaults(getattr(ImageService, name)).items()


def _defaults(function: Callable[..., object]) -> dict[str, object]:
    """Return the defaults of what can be given by name only."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}


def test_what_is_returned_has_the_attributes_that_callers_may_read() -> None:
    assert list(inspect.signature(ImageService).parameters)[:2] == ["root", "config"]
    assert {"ref", "digest", "layers"} <= set(dir(Image))
    assert {"id", "rootfs", "bundle", "mounted", "driver"} <= set(dir(Pod))
    assert {"domain", "path", "tag", "digest", "parse"} <= set(dir(Reference))
    for attribute in ERROR:
        assert hasattr(MicropodError("x"), attribute)
    with pytest.raises(InvalidReference):
        Reference.parse("UPPER")
