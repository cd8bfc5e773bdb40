"""A few of the faults of tests/faults.py, which tries more of them when it is run by itself."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("resource", reason="needs limits of a process, which Windows has not")


def test_kills_and_a_full_disk_lose_nothing():
    command = [sys.executable, os.path.join(ROOT, "tests", "faults.py"), "--count", "4", "--method", "wct"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("4 of") == 2
