"""The long run: `python -m tests.fuzz [--seconds N] [--seed N] [FORMAT...]`, a process a format, faults kept as files.

Each process may take `judge.MEMORY_BYTES`; one that dies is a fault too. Faults go to tests/fuzz/crashes/FORMAT/, of
each place one, from where the suite reads them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz.formats import FORMATS, Format
from tests.fuzz.judge import Verdict, judge, limit_memory

CRASHES = Path(__file__).with_name("crashes")
RESTARTS = 200


def case(form: Format, content: bytes, number: int) -> bytes:
    """The `number`th changed file; the same for ever."""
    return form.mutate(content, Random(number))


def fuzz(name: str, seconds: float, first: int, folder: Path) -> dict[str, object]:
    """Cases of one format from number `first` on, until the time is over."""
    form = FORMATS[name]
    form.prepare(folder)
    path = folder / form.file
    whole = path.read_bytes()
    ends = time.monotonic() + seconds
    number, codes, faults, places = first, Counter[str](), Counter[str](), {}
    for _ in range(RESTARTS):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _cases(form, path, whole, number, ends, writing)
        os.close(writing)
        last = number - 1
        with os.fdopen(reading, encoding="utf-8") as lines:
            for line in lines:
                told = json.loads(line)
                if "begins" in told:
                    last = told["begins"]
                    continue
                codes[str(told["code"])] += 1
                if told["fault"]:
                    faults[told["fault"]] += 1
                    if told["where"].split(": ")[0] not in places:
                        places[told["where"].split(": ")[0]] = told["where"]
                        keep(name, case(form, whole, last))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        number = last + 1
        if status:
            faults[f"died {status}"] += 1
            places[f"died {status} at {last}"] = f"case {last}"
            keep(name, case(form, whole, last))
        if time.monotonic() >= ends:
            break
    return {"format": name, "cases": number - first, "codes": dict(codes), "faults": dict(faults), "places": places}


def _cases(form: Format, path: Path, whole: bytes, number: int, ends: float, told: int) -> None:
    """In a process of its own: one line before each case, one behind it."""
    limit_memory()
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    while time.monotonic() < ends:
        os.write(told, b'{"begins": %d}\n' % number)
        try:
            path.write_bytes(case(form, whole, number))
        except Exception as error:
            verdict = Verdict(0, "sentence", f"mutator: {type(error).__name__}: {error}"[:300])
        else:
            verdict = judge(lambda: form.read(path_root(path, form)), form.codes)
        line = {"code": verdict.code, "fault": verdict.fault, "where": verdict.where}
        os.write(told, json.dumps(line).encode() + b"\n")
        number += 1
    os._exit(0)


def path_root(path: Path, form: Format) -> Path:
    """The folder that a format's file is relative to."""
    return path.parents[len(Path(form.file).parts) - 1]


def keep(name: str, content: bytes) -> Path:
    """A file that was read wrongly, for ever."""
    folder = CRASHES / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(content).hexdigest()[:12]
    if len(content) < 1 << 20:
        path.write_bytes(content)
    return path


def main() -> int:
    """A line a format, faults by place; 1 if there was any."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"of {', '.join(FORMATS)}; all without it")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each format")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first case")
    options = parser.parse_args()
    bad = False
    for name in options.formats or FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(name, options.seconds, options.seed, Path(folder))
        bad = bad or bool(found["faults"])
        sys.stdout.write(f"{json.dumps(found)}\n")
        sys.stdout.flush()
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
