"""What `qanchor.audience` offers is listed, in order, and importing it costs no heavy library."""

import subprocess
import sys

import qanchor.audience


def test_the_exports_are_sorted_and_there() -> None:
    names = qanchor.audience.__all__
    assert names == sorted(names)
    assert all(hasattr(qanchor.audience, name) for name in names)


def test_importing_it_brings_no_model_and_no_store() -> None:
    probe = (
        "import sys, qanchor.audience; print([m for m in ('torch', 'feast', 'sklearn') if m in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
