"""Runs each loop twice, bare and watched, every run in a process of its own, and keeps what came of it."""

import json
import os
import queue
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
OPTIONS = ("--backend", "jsonl", "--gradients-every", "1")


@dataclass(frozen=True)
class Outcome:
    """One run that is over."""

    directory: Path
    exit_code: int

    @cached_property
    def record(self) -> dict:
        path = self.directory / "record.json"
        assert path.exists(), f"exit code {self.exit_code}, and no record:\n{self.stderr[-4000:]}"
        return json.loads(path.read_text())

    @cached_property
    def log(self) -> list[dict]:
        (path,) = self.directory.glob("runs/*/rank-0.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr").read_text()


class Runner:
    """As many zygotes as there are cores, and the runs that they were given. Each run is done once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runs: dict[tuple[str, bool], Future[Outcome]] = {}
        self._processes = [_zygote() for _ in range(min(4, os.cpu_count() or 1))]
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._pool = ThreadPoolExecutor(len(self._processes))

    def outcome(self, loop, *, watched: bool) -> Future[Outcome]:
        """The run of `loop`, perhaps still under way."""
        key = (loop.name, watched)
        if key not in self._runs:
            self._runs[key] = self._pool.submit(self._run, loop, watched)
        return self._runs[key]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for process in self._processes:
            process.stdin.close()
            process.wait()
            process.stdout.close()

    def _run(self, loop, watched: bool) -> Outcome:
        directory = self._directory / loop.name / ("watched" if watched else "bare")
        (directory / "cwd").mkdir(parents=True)
        job = {
            "directory": str(directory / "cwd"),
            "script": str(SCRIPTS / loop.script),
            "arguments": loop.arguments,
            "options": [*OPTIONS, "--dir", str(directory / "runs")] if watched else None,
            **{name: str(directory / name) for name in ("stdout", "stderr")},
            "record": str(directory / "record.json"),
        }
        process = self._idle.get()
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            return Outcome(directory, int(process.stdout.readline()))
        finally:
            self._idle.put(process)


def _zygote() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(HERE / "zygote.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
        text=True,
    )
