from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import micropod_img
from micropod_img.errors import MicropodError
from micropod_img.reference import Reference
from micropod_img.service import ImageService
from tests.support.processes import run

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


def test_the_names_of_the_contract_are_public() -> None:
    assert {"ImageService", "Reference", "MicropodError"} <= set(micropod_img.__all__)
    for attribute in ("code", "message", "hint", "exit_status", "stage", "endpoint", "retryable"):
        assert hasattr(MicropodError("x"), attribute)
    for method in ("pull_image", "get_image", "list_images", "delete_image"):
        assert callable(getattr(ImageService, method))
