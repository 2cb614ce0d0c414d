"""`--help` is instant: no command imports a heavy library before it has to."""

import json
import subprocess
import sys

import pytest

from cli.app import COMMANDS

HEAVY = ("torch", "transformers", "feast", "faiss", "pandas", "pyarrow", "duckdb", "lightgbm", "sqlalchemy")
GROUPS = {
    "consume": "status",
    "deadletters": "list",
    "audience": "save",
    "index": "build",
    "db": "upgrade",
    "head": "train",
    "events": "load",
    "experiment": "plan",
    "labels": "load",
    "useru": "build",
}

_PROBE = f"""
import json, sys, time
from cli.app import run_command
code = run_command(sys.argv[1:])
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps({{"code": code, "cpu": time.process_time(), "loaded": loaded}}), file=sys.stderr)
"""


def _run(*arguments: str) -> dict[str, object]:
    command = [sys.executable, "-c", _PROBE, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, object] = json.loads(finished.stderr.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    "arguments",
    [(), *((name,) for name in COMMANDS), *GROUPS.items()],
    ids=lambda arguments: " ".join(arguments) or "qanchor-cli",
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    result = _run(*arguments, "--help")
    assert (result["code"], result["loaded"]) == (0, [])
    # The promise is half a second; what is measured holds on a machine that does other things too.
    assert float(str(result["cpu"])) < 0.5
