"""A store's URL: what it may say, what it means, and that nothing in it passes unnoticed."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedstate import UrlError
from sharedstate.backend import format_size, parse_url


@pytest.mark.parametrize(
    ("text", "scheme", "target"),
    [
        ("memory:jobs", "memory", "jobs"),
        ("memory:", "memory", ""),
        ("SHM://jobs", "shm", "//jobs"),
        ("file:/var/lib/app", "file", "/var/lib/app"),
        ("file:a%20b", "file", "a b"),
        ("file:100%25", "file", "100%"),
        ("file:caf%C3%A9", "file", "café"),
        ("file:a:b#c", "file", "a:b#c"),
        ("x_1:a", "x_1", "a"),
    ],
)
def test_url_is_taken_apart(text: str, scheme: str, target: str) -> None:
    """Scheme in lower case; the target unquoted; the text as it was written."""
    url = parse_url(text)

    assert (url.scheme, url.target, url.text) == (scheme, target, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "jobs",
        ":jobs",
        "1a:jobs",
        "a-b:jobs",
        "é:jobs",
        "a b:jobs",
        "shm://jobs?size",
        "shm://jobs?size=1&size=2",
        "file:a%",
        "file:a%4",
        "file:a%4g",
        "file:a%  b",
        "file:a%+1",
        "shm://jobs?size=%",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    """UrlError with the text, a reason and advice."""
    with pytest.raises(UrlError) as caught:
        parse_url(text)

    assert caught.value.url == text
    assert caught.value.reason
    assert caught.value.advice


@pytest.mark.parametrize("thing", [None, 1, b"memory:x", ["memory:x"]])
def test_what_is_no_str_is_refused(thing: object) -> None:
    """UrlError too, which is a ValueError."""
    with pytest.raises(ValueError, match="a store is named by a URL"):
        parse_url(thing)  # type: ignore[arg-type]


# --- Targets ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [("shm:jobs", "jobs"), ("shm://jobs", "jobs"), ("shm:A.b_c-9", "A.b_c-9"), ("shm:" + "x" * 100, "x" * 100)],
)
def test_name(text: str, name: str) -> None:
    """A plain name, with or without the two slashes."""
    assert parse_url(text).name() == name


@pytest.mark.parametrize(
    "target", ["", "//", "a/b", "/a", "///a", ".a", "-a", "..", "a b", "é", "a%00", "x" * 101, "a\n"]
)
def test_other_names_are_refused(target: str) -> None:
    """Nothing that could leave a directory, hide, or look like an option."""
    with pytest.raises(UrlError):
        parse_url(f"shm:{target}").name()


def test_default_name() -> None:
    """An empty target takes the default where there is one."""
    assert parse_url("memory:").name(default="default") == "default"
    assert parse_url("memory://").name(default="default") == "default"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:/a/b", "/a/b"),
        ("file:///a/b", "/a/b"),
        ("file:/a/../b/", "/b"),
        ("file:rel/b", os.path.abspath("rel/b")),
        ("file:./b", os.path.abspath("b")),
        ("file:/a%3Fb", "/a?b"),
        ("file:////a", "/a"),
    ],
)
def test_path(text: str, path: str) -> None:
    """A path is made absolute, whatever the notation."""
    assert parse_url(text).path() == path


@pytest.mark.parametrize("text", ["file:", "file://", "file://host/a", "file:a%00b"])
def test_other_paths_are_refused(text: str) -> None:
    """No path, a host name, a NUL byte."""
    with pytest.raises(UrlError):
        parse_url(text).path()


# --- Parameters ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("4KiB", 4096), ("4K", 4096), ("2MiB", 2**21), ("1G", 2**30), ("1GiB", 2**30), ("9000B", 9000)],
)
def test_size(text: str, size: int) -> None:
    """Bytes, or binary units with or without iB."""
    assert parse_url(f"shm:x?size={text}").size("size", 1, minimum=1) == size


@pytest.mark.parametrize("text", ["x", "-1", "1.5M", "1 M", "1TB", "MiB", "4k", "1i", "٣", "0", "1000G", "9" * 5000])
def test_other_sizes_are_refused(text: str) -> None:
    """Unknown units, signs, fractions, other digits, and what is out of range."""
    with pytest.raises(UrlError):
        parse_url(f"shm:x?size={text}").size("size", 1, minimum=1024, maximum=2**35)


def test_missing_parameters_have_defaults() -> None:
    """Each typed reader returns its default for what the URL leaves out."""
    url = parse_url("shm:x")

    assert url.size("size", 77, minimum=1) == 77
    assert url.mode() == 0o600
    assert url.seconds("timeout", 2.5) == 2.5
    assert url.choice("full", ("refuse", "evict")) == "refuse"
    assert url.text_parameter("text", "t") == "t"


@pytest.mark.parametrize("text", ["600x", "0400", "1777", "-600", "9", ""])
def test_modes_that_lock_the_owner_out_are_refused(text: str) -> None:
    """A mode is octal, of nine bits, and lets its owner read and write."""
    with pytest.raises(UrlError):
        parse_url(f"shm:x?mode={text}").mode()
    assert parse_url("shm:x?mode=0660").mode() == 0o660


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "3601", "soon"])
def test_other_times_are_refused(text: str) -> None:
    """Seconds from 0 to 3600."""
    with pytest.raises(UrlError):
        parse_url(f"shm:x?timeout={text}").seconds("timeout", 1)


def test_unknown_choice_is_refused_with_the_known_ones() -> None:
    """The error lists what may be written."""
    with pytest.raises(UrlError, match="refuse, evict"):
        parse_url("shm:x?full=explode").choice("full", ("refuse", "evict"))


def test_unread_parameter_is_refused_with_the_nearest() -> None:
    """finish() refuses what nobody asked for, and guesses what was meant."""
    url = parse_url("shm:x?sise=1MiB")
    url.size("size", 1, minimum=1)

    with pytest.raises(UrlError, match="Did you mean 'size'"):
        url.finish()


@given(target=st.text(), value=st.text())
def test_canonical_url_means_the_same(target: str, value: str) -> None:
    """canonical() quotes what it must: parsing it gives the same target and parameter."""
    url = parse_url("file:x?text=placeholder")
    url._parameters["text"] = value

    again = parse_url(url.canonical(target))

    assert again.target == target
    assert again.text_parameter("text", "") == value


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1023, "1023"), (1024, "1KiB"), (64 * 2**20, "64MiB"), (3 * 2**30, "3GiB")]
)
def test_format_size(size: int, text: str) -> None:
    """The largest unit that divides it."""
    assert format_size(size) == text
