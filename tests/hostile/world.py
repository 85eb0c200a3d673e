"""Runs that are recorded once, for all cases to copy: finished, stopped, killed, failed."""

import os
import pathlib
import signal
import subprocess
import time


class World:
    """What all cases share and none changes."""

    def __init__(self, program, root):
        self.program, self.dir = program, pathlib.Path(root) / "world"
        self.dir.mkdir()
        (self.dir / "run").mkdir(mode=0o700)
        self.runs = {}
        self._finished("sleep", "--model", "sleep", "--pp", "2", "--steps", "4",
                       "--micro-batches", "4", "--sleep-forward-ms", "1",
                       "--sleep-input-grad-ms", "1", "--sleep-weight-grad-ms", "1")
        self._finished("gpt", "--layers", "1", "--width", "16", "--heads", "2", "--context", "8",
                       "--pp", "2", "--steps", "3", "--batch-size", "8", "--micro-batches", "4",
                       "--eval-every", "2", "--save", str(self.dir / "gpt.safetensors"),
                       "--dump-step", str(self.dir / "dump.safetensors"))
        self._finished("wine", "--model", "wine-mlp", "--pp", "2", "--steps", "2")
        self._stopped("killed", signal.SIGKILL)
        self._stopped("stopped", signal.SIGTERM)
        self.weights = self.dir / "gpt.safetensors"
        (self.dir / "plan.csv").write_bytes(subprocess.run(
            [program, "schedule", "export", "1f1b", "--pp", "2", "--micro-batches", "4",
             "--format", "csv"], env=self.env(), capture_output=True, check=True).stdout)
        self.plan = self.dir / "plan.csv"

    def env(self):
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.dir),
                "PPTOP_STATE_DIR": str(self.dir / "state"), "PPTOP_DEVICE": "cpu", "LC_ALL": "C.UTF-8",
                "XDG_RUNTIME_DIR": str(self.dir / "run"), "TERM": "dumb"}

    def _argv(self, name, flags):
        self.runs[name] = self.dir / name
        return [self.program, "train", "--headless", "--json", "--device", "cpu", "--run-dir",
                str(self.runs[name]), *flags]

    def _finished(self, name, *flags):
        subprocess.run(self._argv(name, flags), env=self.env(), check=True, timeout=60,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def _stopped(self, name, sig):
        argv = self._argv(name, ["--model", "sleep", "--pp", "2", "--steps", "100000",
                                 "--micro-batches", "2"])
        with subprocess.Popen(argv, env=self.env(), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            seen = 0
            for line in process.stdout:
                seen += b'"ev":"step"' in line
                if seen >= 3:
                    break
            # The recorder writes a moment later.
            time.sleep(0.5)
            process.send_signal(sig)
            process.stdout.read()
