"""Run a measurement in a fresh process, so that nothing loaded before it warms it up or counts as its memory."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import sfmobile.errors as errors
from sfmobile.errors import SfmobileError, UnavailableError

Result = TypeVar("Result")
Advance = Callable[[int], None]


def run_isolated(
    function: Callable[..., Result], *arguments: Any, advance: Advance | None = None, what: str = "The measurement"
) -> Result:
    """`function(*arguments, advance)` in a spawned process; arguments and result must pickle.

    advance: told of each piece of progress the function reports. Raises the `SfmobileError` the function raised, or
    `UnavailableError` if the process died (as when the system kills it for its memory).
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            kind, payload = receiver.recv()
            if kind == "advance":
                if advance is not None:
                    advance(payload)
            elif kind == "error":
                category, message = payload
                raise getattr(errors, category)(message)
            else:
                result: Result = payload
                return result
    except EOFError:
        process.join()
        code = process.exitcode or 0
        if code == -signal.SIGKILL:
            reason = "the system killed it, most likely for its memory; close other programs or use a machine with more"
        else:
            reason = f"its process ended with code {code}, having printed what stands above"
        raise UnavailableError(f"{what} didn't finish: {reason}.") from None
    finally:
        receiver.close()
        if process.is_alive():
            process.terminate()
        process.join()


def _work(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches the whole process group; the parent answers it and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Results leave through the pipe; whatever a library prints must not mix with the parent's result on stdout.
    os.dup2(2, 1)
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    try:
        result = function(*arguments, lambda count: sender.send(("advance", count)))
    except SfmobileError as error:
        # An exception with arguments of its own may not survive pickling; its category and sentence do.
        category = next(base.__name__ for base in type(error).__mro__ if base.__module__ == errors.__name__)
        sender.send(("error", (category, str(error))))
    else:
        sender.send(("result", result))
    finally:
        sender.close()
