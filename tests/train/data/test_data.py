from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import sfmobile.train.data


def test_the_package_needs_no_more_than_torch_numpy_pillow_pydantic_and_safetensors():
    names = [path.stem for path in Path(sfmobile.train.data.__file__).parent.glob("*.py") if path.stem[0] != "_"]
    assert len(names) > 10
    blocked = ["typer", "rich", "transformers", "diffusers", "coremltools", "scipy", "matplotlib"]
    code = f"import sys, importlib\nfor name in {blocked}: sys.modules[name] = None\n"
    code += f"for name in {names}: importlib.import_module('sfmobile.train.data.' + name)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_composing_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None\nimport sfmobile.train.data.scenes, sfmobile.train.data.tokens"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
