"""The codec against msgpack's: a nested dict of 1024 encoded bytes.

    python benchmarks/codec.py [--rounds 41] [--smoke]

Both run in the same process, one short round after the other, since the speed
of a shared machine drifts by more than what is measured; medians of the rounds
are printed, with the median of the round-by-round ratios.  From Python 3.13 on
the same is done in an isolated interpreter, where msgpack loads as pure Python.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

VALUE_BYTES = 1024


def realistic_value() -> dict[str, Any]:
    """Return a job's record, padded so that it encodes to `VALUE_BYTES`."""
    from sharedstate.values import encode

    value: dict[str, Any] = {
        "id": 184467440,
        "name": "nightly-report",
        "state": "running",
        "priority": 5,
        "progress": 0.625,
        "created": 1750000000.25,
        "owner": {"host": "worker-03.example.org", "pid": 48123, "interpreter": 2, "token": b"\x00\x11\x22\x33" * 4},
        "tags": ["report", "nightly", "finance", "eu-west"],
        "retries": {"count": 1, "limit": 5, "backoff_s": [1, 2, 4, 8, 16], "last_error": None},
        "parts": [
            {
                "part": number,
                "rows": 1000 * number + 7,
                "done": number < 7,
                "checksum": 2**31 + number,
                "path": f"/srv/p{number:02d}",
            }
            for number in range(11)
        ],
        "note": "",
    }
    value["note"] = "x" * (VALUE_BYTES - len(encode(value)) - 1)
    assert len(encode(value)) == VALUE_BYTES
    return value


def time_ns(call: Callable[[Any], Any], argument: Any, repeat: int) -> float:
    """Return the nanoseconds of one call, mean of `repeat`."""
    started = time.perf_counter_ns()
    for _ in range(repeat):
        call(argument)
    return (time.perf_counter_ns() - started) / repeat


def compare(rounds: int, repeat: int) -> None:
    """Print one line for each direction."""
    import msgpack

    from sharedstate import values

    value = realistic_value()
    encoded = values.encode(value)
    packb = msgpack.Packer().pack  # what packb does, less its making of a Packer: the stricter peer
    peers: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], Any]] = {
        "encode / packb": (values.encode, msgpack.packb, value),
        "encode / Packer.pack": (values.encode, packb, value),
        "decode / unpackb": (values.decode, msgpack.unpackb, encoded),
    }
    kind = "C" if msgpack.Packer.__module__ == "msgpack._cmsgpack" else "pure Python"
    for name, (ours, theirs, argument) in peers.items():
        pairs = [(time_ns(ours, argument, repeat), time_ns(theirs, argument, repeat)) for _ in range(rounds)]
        mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(theirs_ns / ours_ns for ours_ns, theirs_ns in pairs)
        best = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
        print(
            f"{name:22} {mine:8.0f} ns, msgpack ({kind}) {other:8.0f} ns, ratio {ratio:5.2f};"
            f" minima {best[0]:.0f} and {best[1]:.0f}"
        )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--smoke", action="store_true", help="one instant, to see that it works")
    options = parser.parse_args()
    rounds, repeat = (1, 3) if options.smoke else (options.rounds, 500)

    from sharedstate import values

    print(f"Python {platform.python_version()}, {platform.machine()}, accelerated: {values.ACCELERATED}")
    print(f"{VALUE_BYTES} bytes; medians of {rounds} interleaved rounds of {repeat} calls")
    print("main interpreter")
    compare(rounds, repeat)
    if sys.version_info >= (3, 13):
        import _interpreters  # type: ignore[import-not-found,unused-ignore]

        print("isolated interpreter", flush=True)
        script = f"import sys; sys.path[:0] = {[*sys.path]!r}\nimport runpy\n"
        script += f"runpy.run_path({__file__!r})['compare']({rounds}, {max(3, repeat // 10)}); sys.stdout.flush()"
        interpreter = _interpreters.create()
        failure = _interpreters.exec(interpreter, script)
        _interpreters.destroy(interpreter)
        if failure is not None:
            sys.exit(failure.formatted)


if __name__ == "__main__":
    main()
