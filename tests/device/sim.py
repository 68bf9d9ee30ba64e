"""Builds the device `sim` (`sim.cpp`) and makes it known to torch, before anything is differentiated: 10 s."""

import hashlib
import os
import subprocess
import sys
import types
from pathlib import Path

import torch

SOURCE = Path(__file__).with_suffix(".cpp")
TORCH = Path(torch.__file__).parent


def build():
    """The path of the library, of this source and this torch."""
    text = f"{torch.__version__} {TORCH} {sys.version} {SOURCE.read_text()}"
    library = SOURCE.parent / "__pycache__" / f"sim-{hashlib.sha256(text.encode()).hexdigest()}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        headers = [f"-I{TORCH / 'include'}", f"-I{TORCH / 'include/torch/csrc/api/include'}"]
        libraries = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]
        options = ["-std=c++20", "-O1", "-fPIC", "-shared"]
        subprocess.run(["g++", *options, *headers, SOURCE, "-o", unfinished, *libraries], check=True)
        unfinished.replace(library)
    return library


class Device(types.ModuleType):
    """What is `torch.cuda` for CUDA. It begins to be used with its first tensor, in the script's own time."""

    def __init__(self):
        super().__init__("torch.sim")
        self.asked = []  # what a process may not be asked before it has chosen its devices

    def is_initialized(self):
        return torch.ops.sim.launched() > 0

    def is_available(self):
        self.asked.append("is_available")
        return True

    def device_count(self):
        self.asked.append("device_count")
        return 2

    def get_device_name(self, device=None):
        self.asked.append("get_device_name")
        return "Simulated"

    def current_device(self):
        return torch.accelerator.current_device_index()

    def is_current_stream_capturing(self):
        return torch.ops.sim.is_recording()

    def device(self, device):
        return torch.accelerator.device_index(None if device == -1 else torch.device(device).index or 0)

    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]

    def _is_in_bad_fork(self):
        return False

    # Random numbers are the CPU's, as its kernels are.

    def manual_seed(self, seed):
        pass

    manual_seed_all = manual_seed

    def get_rng_state(self, device=None):
        return torch.get_rng_state()

    def get_rng_state_all(self):
        return []

    def set_rng_state(self, state, device=None):
        torch.set_rng_state(state)

    def set_rng_state_all(self, states):
        assert not states


def register():
    """`torch.device("sim")` is there from now on, and is the accelerator."""
    torch.utils.rename_privateuse1_backend("sim")
    torch.ops.load_library(build())
    torch.ops.sim.register_hooks()
    torch._register_device_module("sim", Device())
    torch.utils.generate_methods_for_privateuse1_backend()
