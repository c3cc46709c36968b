"""How long ``splitter --help`` takes, a new process each time: JSON lines out."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "splitter --help": [sys.executable, "-m", "splitter", "--help"],
        "splitter plan --help": [sys.executable, "-m", "splitter", "plan", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(2 if arguments.smoke else arguments.runs):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    for name, series in seconds.items():
        print(
            json.dumps(
                {
                    "benchmark": "start",
                    "command": name,
                    "median_s": round(statistics.median(series), 3),
                }
            )
        )


if __name__ == "__main__":
    main()
