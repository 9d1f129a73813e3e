"""A training that is killed at any of its file operations ends, resumed, in the weights of one that never was."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# In one process that forks, so that everything is imported once; on one thread, so that a fork has all of torch.
SCRIPT = """
import hashlib, json, os, sys
from dataclasses import replace
from pathlib import Path

import torch

from tests.train.test_loop import CONFIG, Stage
from sfmobile.train.loop import TrainingLoop

torch.set_num_threads(1)
WRITES = os.O_WRONLY | os.O_RDWR
config = replace(CONFIG, steps=4, checkpoint_every=2, log_every=2)

def train(directory, kill_before):
    count = 0
    def operation(event, arguments):
        nonlocal count
        if event == "open":
            path, _, flags = arguments
            placed = isinstance(path, (str, os.PathLike)) and flags & WRITES
        else:
            placed = event in ("os.rename", "os.remove", "os.link", "os.truncate", "os.mkdir")
            path = arguments[0]
        if placed and str(path).startswith(str(directory)):
            count += 1
            if count == kill_before:
                os._exit(9)
    if kill_before:
        sys.addaudithook(operation)
    weights = TrainingLoop(Stage(), config, directory, cpu=True).run()
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].numpy().tobytes())
    return digest.hexdigest()

def in_child(directory, kill_before):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        digest = train(directory, kill_before)
        os.write(writing, digest.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        digest = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), digest

root = Path(sys.argv[1])
whole = train(root / "whole", 0)
ends, number = [], 0
while True:
    number += 1
    directory = root / f"killed-{number}"
    code, digest = in_child(directory, number)
    if code == 0:
        break
    assert code == 9, code
    again, digest = in_child(directory, 0)
    left = sorted(path.name for path in directory.iterdir())
    ends.append({"code": again, "same": digest == whole, "left": left})
print(json.dumps(ends))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_kill_at_any_file_operation_loses_nothing_but_time(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    # The log's opening, and of each of two checkpoints its draft, its place, and an older version's record.
    assert len(ends) >= 7
    for number, end in enumerate(ends, 1):
        assert end == {"code": 0, "same": True, "left": ["log.jsonl", "state.safetensors"]}, number
