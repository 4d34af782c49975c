from __future__ import annotations

from micropod_img.errors import NotFoundError, UnavailableError
from micropod_img.render.errors import error_text, warning_text
from micropod_img.render.style import Style

ERROR = UnavailableError(
    "registry.example.com did not answer",
    code="timeout",
    hint="try again",
    stage="resolve",
    endpoint="registry.example.com",
    retryable=True,
    detail="Error: first\nsecond \x1b[31m",
)


def test_an_error_is_its_message_and_its_hint() -> None:
    assert error_text(ERROR, Style()) == "micropod-img: registry.example.com did not answer\nhint: try again"


def test_a_verbose_error_has_all_that_is_known() -> None:
    assert error_text(ERROR, Style(), verbose=True).splitlines()[2:] == [
        "  code timeout, exit status 5, stage resolve, endpoint registry.example.com, may pass if tried again",
        "  | Error: first",
        "  | second \\x1b[31m",
    ]


def test_a_verbose_error_of_which_little_is_known_is_short() -> None:
    assert error_text(NotFoundError("gone"), Style(), verbose=True).splitlines() == [
        "micropod-img: gone",
        "  code not-found, exit status 3",
    ]


def test_messages_are_made_harmless() -> None:
    error = NotFoundError("no \x1b[2Jimage\nhint: run this", hint="see \x07\nthat")
    assert error_text(error, Style()) == ("micropod-img: no \\x1b[2Jimage\\nhint: run this\nhint: see \\x07\\nthat")
    assert warning_text("odd\r\nthing", Style()) == "micropod-img: warning: odd\\r\\nthing"


def test_only_our_own_words_are_coloured() -> None:
    assert error_text(NotFoundError("gone"), Style(colour=True)) == "\x1b[1;31mmicropod-img:\x1b[0m gone"
