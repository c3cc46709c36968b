from __future__ import annotations

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_the_c_library_takes_every_setting() -> None:
    # in a process of its own, since it holds for all of one
    code = "from splitter.serving.server.memory import keep_memory; assert keep_memory()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
