"""The machine that a run trains on: device, CPU threads, precision, memory, and the compiler.

Nothing here knows of networks or data; train.py calls most of it once, before the first epoch.
"""

import contextlib
import ctypes
import logging
import math
import os
import sys
import timeit
from pathlib import Path

import torch
from torch import nn

from harness.errors import UserError

SLOW_BF16 = 0.8  # of the speed in fp32; a CPU with good bf16 reaches 2 or more


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Automatic mixed precision to bfloat16 for "bf16", nothing for "fp32"; can be entered again."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def choose_device(name: str) -> torch.device:
    """The device that --device names; "auto" is cuda, else mps, else cpu. UserError if it is not there."""
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if name == "auto":
        name = next(kind for kind, available in there.items() if available())
    if not there[name]():
        raise UserError(f"--device {name}: this machine, or this build of PyTorch, has none; take --device cpu")
    return torch.device(name)


def choose_threads(asked: int | None = None, *, processes: int = 1) -> None:
    """Compute on `asked` CPU threads, by default on as many as PyTorch would, but no more than there are cores.

    `processes` is how many ranks compute on this machine, each on so many threads.
    """
    if asked and asked * processes > max(cores(), processes):
        of_each = f" of each of {processes} ranks" if processes > 1 else ""
        print(f"warning: {asked} threads{of_each} slow one another down; CPU cores: {cores()}", file=sys.stderr)
    # Set even if it is PyTorch's own choice: only then does a resumed run compute just as an uninterrupted one.
    torch.set_num_threads(asked or min(torch.get_num_threads(), cores()))


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware, as far as PyTorch tells."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_sve_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def warn_of_slow_bf16() -> None:
    """Say on standard error if --precision bf16 makes this CPU slower: it has no such arithmetic, or a slow one.

    A virtual machine may hide the units that make it quick, so two products are timed; that takes some 10 ms.
    """
    if not cpu_has_bf16():
        reason = "has no bf16 arithmetic, which will be slow"
    elif (share := _product_seconds(torch.float32) / _product_seconds(torch.bfloat16)) < SLOW_BF16:
        reason = f"multiplies in bf16 at {share:.0%} of its fp32 speed"
    else:
        return
    print(f"warning: this CPU {reason}; --precision fp32 is faster", file=sys.stderr)


def _product_seconds(dtype: torch.dtype) -> float:
    """The shortest time that a product of two matrices takes here."""
    matrix = torch.ones(512, 512, dtype=dtype)
    return min(timeit.repeat(lambda: torch.mm(matrix, matrix), number=1, repeat=4))


def keep_freed_memory() -> None:
    """Have the C library keep the memory of large tensors for the next step, where it would return it to the system.

    Every step takes and frees the same tens of megabytes; fetched from the system each time, they arrive as thousands
    of page faults. With this a CNN step takes a tenth to a third less time. Changes no number; glibc (Linux) only.
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return
    largest_fast, trim_threshold, mmap_threshold = 1, -1, -3  # M_MXFAST, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD: <malloc.h>
    library.mallopt(mmap_threshold, 2**30) or library.mallopt(mmap_threshold, 2**25)  # all that old ones allow
    library.mallopt(trim_threshold, 2**31 - 1)
    library.mallopt(largest_fast, 0)  # else all small blocks are joined whenever a large one is freed


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """The model by way of torch.compile, with the same parameters: fewer and larger kernels, on CUDA as CUDA graphs.

    A recurrent network stays as it is: its layer, nearly all of the work, is a library's kernel, or a loop over the
    steps that would be unrolled. UserError if PyTorch cannot compile here: on a CPU it needs a C++ compiler.
    """
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        print("note: --compile leaves a recurrent network as it is")
        return model
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    # These two warn of CUDA tools without a GPU, and of a name that profiles of DistributedDataParallel will lack.
    for name in ("torch.utils.cpp_extension", "torch._dynamo.variables.ctx_manager"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        torch.compile(torch.square, mode=mode)(torch.ones(1, device=device))  # a trial, before anything is written
    except Exception as error:  # the compiler has many parts, which raise anything
        raise UserError("--compile: PyTorch finds no working compiler on this machine; train without it") from error
    return torch.compile(model, mode=mode, dynamic=False)  # two shapes: whole batches, and the epoch's last


def cores() -> int:
    """How many CPU cores this process may use; at most as many, rounded up, as its container may keep busy."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, quota_of_cores())))


def quota_of_cores(control_groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """The cores' worth of time that Linux gives this process's control group, or one that it lies in, if limited.

    Read as the kernel's documentation of version 2 has it: `cpu.max` ("quota period", or "max period") in each folder
    on the way to the group. PyTorch alone does not see such a limit.
    """
    quotas = [math.inf]
    lines = own.read_text().splitlines() if own.exists() else []  # not on other systems
    for group in (control_groups / line[4:] for line in lines if line.startswith("0::/")):
        for limit in (folder / "cpu.max" for folder in (group, *group.parents)):
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # missing, or "max": no limit
                quota, period = map(int, limit.read_text().split())
                quotas.append(quota / period)
    return min(quotas)


def exact_dtype(device: torch.device) -> torch.dtype:
    """float64 for sums over an epoch, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
