"""The files that a command writes at its end: refused at its beginning, where the work would be for nothing."""

from __future__ import annotations

import os

import click

__all__ = ["require_writable", "write_text"]


def require_writable(option: str, path: str | None) -> None:
    """Refuse a file that cannot be written as far as that can be seen without making it; `-` is stdout.

    Raises:
        click.UsageError: a directory is in its place, or none above it, or one that this user may not write to.
    """
    if path is None or path == "-":
        return
    directory = os.path.dirname(path) or "."
    if os.path.isdir(path):
        reason = "it is a directory"
    elif not os.path.isdir(directory):
        reason = f"there is no directory {directory}"
    elif not os.access(path if os.path.exists(path) else directory, os.W_OK):
        reason = f"this user may not write {'it' if os.path.exists(path) else f'to {directory}'}"
    else:
        return
    raise click.UsageError(f"{option} {path}: {reason}. Nothing was tried yet; name another file.")


def write_text(path: str, text: str) -> None:
    """Write a file of UTF-8; `-` is stdout.

    Raises:
        OSError: it names the file, also where the system does not: a full disk is met when it is closed.
    """
    try:
        with click.open_file(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if error.filename is None and path != "-":
            error.filename = path
        raise
