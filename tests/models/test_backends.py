"""A torchvision that is installed but broken does not stand in the way."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from PIL import Image
import vlmend
vlm = vlmend.load(sys.argv[1])
print(len(vlm.prepare([vlmend.Example("what ?", Image.new("RGB", (40, 40)))]).rows[0].visual_T))
from vlmend.models.backends import torchvision_problem
print(torchvision_problem())
"""


@pytest.mark.slow
def test_models_load_beside_a_broken_torchvision(tiny_folder, tmp_path):
    """Also one whose processor has a part for videos."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_folder("qwen2_vl"))],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    tokens, problem = done.stdout.splitlines()
    assert int(tokens) > 4
    assert problem == "RuntimeError: operator torchvision::nms does not exist"
