"""Print what importing the bot client costs above importing httpx: medians of fresh processes, taken in turns.

    .venv/bin/python bench/client_import.py [processes] [python]

CPU time is printed beside elapsed time, for on a busy machine only the former says what the import itself needs.
"""

import statistics
import subprocess
import sys

CODE = """
import time
import httpx
wall, cpu = time.perf_counter(), time.process_time()
import tradeverdict_client
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
HTTPX = CODE.replace("import httpx\n", "", 1).replace("import tradeverdict_client", "import httpx")


def milliseconds(python: str, code: str) -> tuple[float, float]:
    """Elapsed and CPU time of one import in a process of its own."""
    printed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    wall, cpu = (float(text) * 1000 for text in printed.split())
    return wall, cpu


def main() -> None:
    """Print both medians and their ratio."""
    processes = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    python = sys.argv[2] if len(sys.argv) > 2 else sys.executable
    rounds = [(milliseconds(python, HTTPX), milliseconds(python, CODE)) for _ in range(processes)]
    httpx_wall, httpx_cpu, wall, cpu = (
        statistics.median(figures) for figures in zip(*((*base, *above) for base, above in rounds), strict=True)
    )
    print(f"httpx alone: {httpx_wall:.0f} ms elapsed, {httpx_cpu:.0f} ms CPU (medians of {processes})")
    print(
        f"tradeverdict_client above it: {wall:.0f} ms elapsed, {cpu:.0f} ms CPU; {cpu / httpx_cpu:.2f} of httpx's own"
    )


if __name__ == "__main__":
    main()
