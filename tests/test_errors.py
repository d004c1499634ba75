"""The wording of errors: whose code an error comes from, and no passwords."""

from collections.abc import Callable
from pathlib import Path
from sysconfig import get_path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import genre_cls
from genre_cls.errors import UserError, in_short, place_of

LIBRARIES = (
    f"{get_path('stdlib')}/json/decoder.py",
    f"{get_path('purelib')}/torch/nn/modules/linear.py",
    "/home/me/.local/lib/python3.11/site-packages/einops/einops.py",
    "/usr/lib/python3/dist-packages/scipy/special.py",
    f"{Path(genre_cls.__file__).parent}/models/cnn.py",
    "<string>",
    "<frozen importlib._bootstrap>",
)


def failing(*files: str) -> Exception:
    """An error whose traceback leads through functions in these files, the outermost first."""
    inner: Callable[[], object] = iter  # fails without an argument
    for file in reversed(files):
        names = {"inner": inner}
        exec(compile("\n\ndef function():\n    inner()", file, "exec"), names)
        inner = names["function"]
    with pytest.raises(TypeError) as raised:
        inner()
    assert raised.value.__traceback__
    return raised.value.with_traceback(raised.value.__traceback__.tb_next)  # without this function itself


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_error_in_a_library_has_the_place_in_the_users_code_that_called_it(library: str) -> None:
    assert place_of(failing(library, "/home/me/mine.py", library)) == " (mine.py, line 4)"


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_error_that_no_code_of_the_user_led_to_has_no_place(library: str) -> None:
    assert place_of(failing(library)) == ""


@pytest.mark.parametrize("password", ["secret", "se@cret", "se/cret", "se?cret", "se#cret"])
def test_addresses_lose_their_passwords_though_these_should_have_been_escaped(password: str) -> None:
    line = f"tracking.uri=http://me:{password}@host:5000/path: no answer"
    assert str(UserError(line)) == "tracking.uri=http://host:5000/path: no answer"


@pytest.mark.parametrize(
    "address",
    [
        "http://host:5000/a@b",
        "http://host/a:b@c",
        "s3://bucket/a@b",
        "http://[::1]:5000/a@b",
        "http://localhost:/x@y",
    ],
)
def test_addresses_without_passwords_stay_whole(address: str) -> None:
    assert str(UserError(f"{address}: no answer")) == f"{address}: no answer"


@given(st.text().filter(lambda text: "://" not in text))  # of whose addresses it would lose passwords
@example("\x7f")  # deletes the letter before it
@example("\u202egpj.exe")  # turns the letters after it around
@example("one\u2028two")
def test_a_message_is_one_line_of_printable_characters_whatever_a_file_is_called(name: str) -> None:
    message = str(UserError(name))
    assert message.isprintable() and (message == name) == name.isprintable()


def test_a_long_message_of_a_library_is_cut_visibly_and_a_short_one_is_whole() -> None:
    assert in_short(ValueError("a\n b")) == "ValueError: a b"
    assert in_short(ValueError("a" * 160)) == "ValueError: " + "a" * 160
    assert in_short(ValueError("a" * 161)) == "ValueError: " + "a" * 159 + "…"
