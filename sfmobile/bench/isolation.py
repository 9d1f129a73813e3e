"""Run a measurement in a fresh process, so that nothing loaded before it warms it up or counts as its memory.

Not by `multiprocessing`, whose fresh processes run the caller's script again: `sfmobile.bench` may stand in one.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import IO, Any, TypeVar

import sfmobile.errors as errors
from sfmobile.errors import SfmobileError, UnavailableError

Result = TypeVar("Result")
Advance = Callable[[int], None]
CHILD = "from sfmobile.bench.isolation import serve; serve()"


def run_isolated(
    function: Callable[..., Result], *arguments: Any, advance: Advance | None = None, what: str = "The measurement"
) -> Result:
    """`function(*arguments, advance)` in a process of its own; all of it must pickle (no function of a script).

    advance: told of each piece of progress the function reports. Raises the `SfmobileError` the function raised, or
    `UnavailableError` if the process died (as when the system kills it for its memory).
    """
    # It imports from where this process does.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        pickle.dump((function, arguments), process.stdin)
        process.stdin.close()
        while True:
            kind, payload = pickle.load(process.stdout)
            if kind == "advance":
                if advance is not None:
                    advance(payload)
            elif kind == "error":
                category, sentence = payload
                raise getattr(errors, category)(sentence)
            else:
                result: Result = payload
                return result
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        code = process.wait()
        if code == -signal.SIGKILL:
            reason = "the system killed it, most likely for its memory; close other programs or use a machine with more"
        else:
            reason = f"its process ended with code {code}, having printed what stands above"
        raise UnavailableError(f"{what} didn't finish: {reason}.") from None
    finally:
        if process.poll() is None:
            process.terminate()
        process.stdout.close()
        process.wait()


def serve() -> None:
    """What the fresh process does: its task comes through stdin, progress and result leave through stdout."""
    # Ctrl-C reaches the whole process group; the parent answers it and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink: IO[bytes] = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not mix with the messages, nor with the parent's result on stdout.
    os.dup2(2, 1)
    logging.getLogger("coremltools").setLevel(logging.ERROR)

    def send(kind: str, payload: Any) -> None:
        pickle.dump((kind, payload), sink)
        sink.flush()

    function, arguments = pickle.load(sys.stdin.buffer)
    try:
        result = function(*arguments, lambda count: send("advance", count))
    except SfmobileError as error:
        # An exception with arguments of its own may not survive pickling; its category and sentence do.
        category = next(base.__name__ for base in type(error).__mro__ if base.__module__ == errors.__name__)
        send("error", (category, str(error)))
    else:
        send("result", result)
