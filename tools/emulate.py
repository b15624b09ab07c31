#!/usr/bin/env python3
"""Runs code objects of `clbench isa --keep` on an emulator, and compares what comes out.

    clbench isa --target gfx1100 --keep kept
    git clone https://github.com/tinygrad/tinygrad
    python3 -m venv emulator && emulator/bin/pip install numpy
    CC=clang-22 emulator/bin/python tools/emulate.py --tinygrad tinygrad kept/gfx1100/*.json

The emulator is tinygrad's `test/mockgpu/amd/emu.py` (tried with its commit a9069c177a), which executes
the instructions of RDNA 3, RDNA 4 and CDNA as AMD's manuals spell them out, each compiled for the host by
the compiler that CC names. This is no part of CI: it takes seconds to minutes a kernel.

What a driver does at a launch is done here, from the description and the code object alone: segments
loaded, arguments packed, registers and the dispatch packet set as the kernel's descriptor asks. An element
passes if it is within the description's tolerance of what the definition gives.
"""

import argparse
import ctypes
import json
import mmap
import os
import signal
import struct
import sys
import time
import types
from pathlib import Path

import numpy as np

OUTCOMES = ["passed", "wrong", "not run"]
ARCHITECTURES = {"gfx942": "cdna", "gfx1100": "rdna3", "gfx1201": "rdna4"}
# What a kernel's descriptor may ask for in scalar registers, in order, and how many each takes.
USER_REGISTERS = [
    ("private_segment_buffer", 4),
    ("dispatch_ptr", 2),
    ("queue_ptr", 2),
    ("kernarg_segment_ptr", 2),
    ("dispatch_id", 2),
    ("flat_scratch_init", 2),
    ("private_segment_size", 1),
]


# Instructions that empty caches, which the emulator neither has nor knows: it gets `s_nop` instead.
CACHES = {
    "gfx1100": ["0000ace0 00000000"],  # buffer_gl0_inv
    "gfx1201": ["7cc00aee 00000000 00000000", "7cc00aee 00000400 00000000"],  # global_inv
}
NO_OPERATION = bytes.fromhex("000080bf")

# The emulator follows the addresses of lanes that are switched off into local memory, and beyond it.
ADDRESS = "ctx.rvgpr_dyn(addr_reg, lane)"
OF_ACTIVE_LANES = f"_lane_active(exec_mask, lane).where({ADDRESS}, _c(0))"
CORRECTIONS = [
    (f"      addr = {ADDRESS}\n", f"      addr = {OF_ACTIVE_LANES}\n"),
    (f"'vgpr_a': {ADDRESS}", f"'vgpr_a': {OF_ACTIVE_LANES}"),
]


class CodeObject:
    """A code object in memory."""

    def __init__(self, path, symbol):
        self.file = path.read_bytes()
        if self.file[:4] != b"\x7fELF":
            raise ValueError(f"{path} is no ELF file")
        program_headers, section_headers = struct.unpack_from("<QQ", self.file, 32)
        program_size, programs, section_size, sections = struct.unpack_from("<HHHH", self.file, 54)
        segments = [
            struct.unpack_from("<IIQQQQQQ", self.file, program_headers + at * program_size)
            for at in range(programs)
        ]
        loaded = [segment for segment in segments if segment[0] == 1]
        size = max(address + memory for _, _, _, address, _, _, memory, _ in loaded)
        self.memory = mmap.mmap(-1, size + 4096)
        for _, _, offset, address, _, length, _, _ in loaded:
            self.memory[address : address + length] = self.file[offset : offset + length]
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.sections = [
            struct.unpack_from("<IIQQQQIIQQ", self.file, section_headers + at * section_size)
            for at in range(sections)
        ]
        self.relocate()
        self.descriptor = self.find(symbol)

    def replace(self, instructions):
        """Puts no operation in the place of instructions."""
        for at in range(0, len(self.memory), 4):
            for instruction in map(bytes.fromhex, instructions):
                if self.memory[at : at + len(instruction)] == instruction:
                    self.memory[at : at + len(instruction)] = NO_OPERATION * (len(instruction) // 4)

    def relocate(self):
        for _, kind, _, _, offset, size, _, _, _, entry in self.sections:
            if kind != 4:  # SHT_RELA
                continue
            for at in range(offset, offset + size, entry):
                place, info, addend = struct.unpack_from("<QQq", self.file, at)
                if info & 0xFFFFFFFF != 13:  # R_AMDGPU_RELATIVE64
                    raise ValueError(f"relocation {info & 0xFFFFFFFF} is not known here")
                struct.pack_into("<Q", self.memory, place, self.base + addend)

    def find(self, wanted):
        for _, kind, _, _, offset, size, link, _, _, entry in self.sections:
            if kind not in (2, 11):  # SHT_SYMTAB, SHT_DYNSYM
                continue
            names = self.sections[link][4]
            for at in range(offset, offset + size, entry):
                name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", self.file, at)
                end = self.file.index(b"\0", names + name)
                if self.file[names + name : end].decode() == wanted:
                    return value
        raise ValueError(f"no symbol {wanted}")


def packed(description, folder, keep):
    """The arguments as the kernel reads them, and the buffers that it writes."""
    arguments, written = bytearray(description["argument_bytes"]), []
    for argument in description["arguments"]:
        offset, size = argument["offset"], argument["size"]
        if "value" in argument:
            value = argument["value"]
            if argument.get("type_name") == "float":
                arguments[offset : offset + size] = struct.pack("<f", value)
            else:
                arguments[offset : offset + size] = int(value).to_bytes(size, "little", signed=value < 0)
            continue
        if "before" in argument:
            buffer = np.load(folder / argument["before"])
        else:
            element = np.dtype(argument["element"])
            count = argument["elements"] * element.itemsize
            buffer = np.full(count, argument["before_byte"], np.uint8).view(element)
            written.append((argument, buffer))
        keep.append(buffer)
        arguments[offset : offset + size] = struct.pack("<Q", buffer.ctypes.data)
    return arguments, written


def launch(emulator, description, folder):
    """Runs a kernel; gives what it wrote, each with its argument."""
    keep = []
    code = CodeObject(folder / description["code_object"], description["symbol"])
    code.replace(CACHES.get(description["target"], []))
    arguments, written = packed(description, folder, keep)
    arguments = ctypes.create_string_buffer(bytes(arguments), len(arguments) + 64)
    groups, local = description["groups"], description["local"]
    at = code.descriptor
    group_bytes, private_bytes, _ = struct.unpack_from("<III", code.memory, at)
    (entry,) = struct.unpack_from("<q", code.memory, at + 16)
    (resources,) = struct.unpack_from("<I", code.memory, at + 52)
    (properties,) = struct.unpack_from("<H", code.memory, at + 56)
    # hsa_kernel_dispatch_packet_t
    packet = ctypes.create_string_buffer(
        struct.pack(
            "<6H5I4Q",
            0, 3, *local, 0,
            *(count * items for count, items in zip(groups, local)),
            private_bytes, group_bytes,
            code.base + at, ctypes.addressof(arguments), 0, 0,
        )
    )
    values = {"dispatch_ptr": ctypes.addressof(packet), "kernarg_segment_ptr": ctypes.addressof(arguments)}
    registers = []
    for bit, (name, count) in enumerate(USER_REGISTERS):
        if properties >> bit & 1:
            value = values.get(name, 0)
            registers += [value >> 32 * word & 0xFFFFFFFF for word in range(count)]
    # A driver writes how much local memory a work-group has, in blocks of 512 bytes.
    resources = resources & ~(0x1FF << 15) | -(-group_bytes // 512) << 15
    emulator.run_asm(
        code.base + at + entry, 0, *groups, *local, ctypes.addressof(arguments),
        rsrc2=resources, scratch_size=private_bytes,
        arch=ARCHITECTURES[description["target"]], user_data=registers,
    )
    return written


def difference(argument, actual, folder):
    """The largest difference of an element; infinite where one was not written or is no number."""
    expected = np.load(folder / argument["after"])
    if expected.dtype.kind != "f":
        return float(np.abs(actual.astype(np.int64) - expected.astype(np.int64)).max(initial=0))
    untouched = np.isnan(expected)
    off = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    off = np.where(untouched & np.isnan(actual), 0.0, off)
    return float(np.where(np.isnan(off), np.inf, off).max(initial=0.0))


def load_emulator(tinygrad):
    """tinygrad's emulator, corrected."""
    sys.path.insert(0, str(tinygrad.resolve()))
    path = tinygrad / "test/mockgpu/amd/emu.py"
    source = path.read_text()
    for before, after in CORRECTIONS:
        if before not in source:
            sys.exit(f"{path} is another one than this was written for: no line {before.strip()!r}")
        source = source.replace(before, after)
    emulator = types.ModuleType("emulator")
    sys.modules["emulator"] = emulator
    exec(compile(source, path, "exec"), emulator.__dict__)
    return emulator


def run(emulator, path, limit):
    """Runs what a description says; gives the outcome with a line about it."""
    description = json.loads(path.read_text())
    start, outcome, detail = time.monotonic(), "passed", ""
    signal.alarm(limit)
    try:
        for argument, actual in launch(emulator, description, path.parent):
            off = difference(argument, actual, path.parent)
            detail += f" {argument['name']} off by {off:.2g} of {argument['tolerance']:.2g}"
            if not off <= argument["tolerance"]:
                outcome = "wrong"
    except Exception as error:
        outcome, detail = "not run", f" {type(error).__name__}: {error}".splitlines()[0]
    finally:
        signal.alarm(0)
    return outcome, f"{outcome}: {path.stem}:{detail} ({time.monotonic() - start:.0f} s)"


def run_apart(emulator, path, limit):
    """As `run`, in a process of its own, and gives the outcome: what a kernel reads or writes where
    there is nothing ends the emulator too."""
    child = os.fork()
    if child == 0:
        outcome, line = run(emulator, path, limit)
        print(line, flush=True)
        os._exit(OUTCOMES.index(outcome))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        print(f"not run: {path.stem}: ended by signal {os.WTERMSIG(status)}", flush=True)
        return "not run"
    return OUTCOMES[os.WEXITSTATUS(status)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("descriptions", nargs="+", type=Path, help="JSON files of clbench isa --keep")
    parser.add_argument("--tinygrad", required=True, type=Path, help="a checkout of tinygrad")
    parser.add_argument("--limit", type=int, default=600, help="seconds for a kernel")
    options = parser.parse_args()
    for path in options.descriptions:
        target = json.loads(path.read_text())["target"]
        if target not in ARCHITECTURES:
            parser.error(f"{path}: {target} is none of {', '.join(ARCHITECTURES)}")
    emulator = load_emulator(options.tinygrad)

    def out_of_time(*_):
        raise TimeoutError(f"not done in {options.limit} s")

    signal.signal(signal.SIGALRM, out_of_time)
    outcomes = [run_apart(emulator, path, options.limit) for path in options.descriptions]
    print(", ".join(f"{outcomes.count(one)} {one}" for one in OUTCOMES))
    sys.exit(0 if "wrong" not in outcomes else 1)


if __name__ == "__main__":
    main()
