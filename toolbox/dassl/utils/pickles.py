"""Untrusted pickles: what would keep an unpickler busy forever is found before anything is unpickled.

Loaders that run no code still hash the keys of dicts. A tuple (t, t) whose t is such a tuple again, sixty deep, takes
some hundred bytes to write and 2**60 steps to hash, in C, where Ctrl-C is not heard. Here the pickle's instructions
are followed with sizes in place of values: a tuple's size is that of all it holds, written out.
"""

import io
import os
import pickletools
import zipfile
from typing import BinaryIO

from .schema import Unfit

MOST_BYTES = 64 << 20  # of a pickle, without the numbers of its tensors; a ViT-L/14's has 0.1 MB
MOST_STEPS = 2_000_000  # instructions, each with the size of what it moves; a ViT-L/14 takes 0.1 million
MOST_IN_TUPLE = 10_000  # the largest honest tuple is the state of Python's generator, with 630
MOST_IN_NAME = 15  # of a storage: five values, or six with a view of three
CONTAINER = 20  # size of a list, dict or set, which may be filled after it was put into a tuple: no part of a name
ROW = 5  # pickles of a file of torch before 1.6: mark, version, system, content, storages
KEEPS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"}  # fill what lies below what they take
CONTAINERS = {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "LIST", "DICT"}
HOLDS = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
HOLDS |= {"REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"}  # a call may give its arguments back
READS = {"GET", "BINGET", "LONG_BINGET"}
WRITES = {"PUT", "BINPUT", "LONG_BINPUT"}


def check_pickles(path: str | os.PathLike) -> None:
    """Check all that `torch.load` would unpickle of a file, in a zip archive or in the row of pickles of old torch.

    Raises:
        Unfit, ValueError: as `check_pickle`.
        OSError, zipfile.BadZipFile, ...: the file cannot be read.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            row = io.BytesIO(file.read(MOST_BYTES))
            for _ in range(ROW):
                check_pickle(row)
            return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():  # torch's reader of zips takes upper case for lower
            if member.filename.lower().endswith("data.pkl"):
                check_member(archive, member)


def check_member(archive: zipfile.ZipFile, member: str | zipfile.ZipInfo) -> None:
    """Check a pickle in a zip archive; raises as `check_pickle`."""
    with archive.open(member) as file:
        pickled = file.read(MOST_BYTES + 1)
    if len(pickled) > MOST_BYTES:
        raise Unfit(f"its pickle is larger than {MOST_BYTES:,} bytes")
    check_pickle(io.BytesIO(pickled))


def check_pickle(stream: BinaryIO) -> None:
    """Follow a pickle to its end, building nothing, and refuse what would take an unpickler time or memory without end.

    Args:
        stream: of at most `MOST_BYTES`; left behind the pickle's end.

    Raises:
        Unfit: tuples that hold each other to more than `MOST_IN_TUPLE` values, too many steps or places in memory.
        ValueError: this is no pickle, or a damaged one.
    """
    shadow, left = _Shadow(), MOST_STEPS
    for opcode, argument, position in pickletools.genops(stream):
        if opcode.name in WRITES and argument > position:  # an unpickler in C takes memory for all below
            raise Unfit(f"its pickle asks for {argument:,} places in memory")
        left -= 1 + shadow.follow(opcode, argument)
        if left < 0:
            raise Unfit(f"its pickle takes more than {MOST_STEPS:,} steps")


class _Shadow:
    """The stack and the memo of an unpickler, with sizes in place of values; None is a mark."""

    def __init__(self) -> None:
        self.stack: list[int | None] = []
        self.memo: dict[int, int] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: object) -> int:
        """Do what an instruction does to the stack; returns the size of all that it moved."""
        name = opcode.name
        if name == "MARK" or (name == "POP" and self.stack[-1:] == [None]):
            self.stack.append(None) if name == "MARK" else self.stack.pop()
            return 0
        if name in WRITES or name == "MEMOIZE":
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.top()
            return 0
        taken = self.take(opcode)
        size = sum(taken)
        if name in HOLDS and size >= MOST_IN_TUPLE:
            raise Unfit(f"its pickle has tuples that hold each other to more than {MOST_IN_TUPLE:,} values")
        if name == "BINPERSID" and size > MOST_IN_NAME:
            raise Unfit("its pickle names a storage by more than a few plain values")
        self.stack += [self.left_by(name, argument, taken)] * len(opcode.stack_after)
        return size - taken[0] if name in KEEPS else size

    def left_by(self, name: str, argument: object, taken: list[int]) -> int:
        """Size of what an instruction leaves on the stack."""
        if name in READS:
            if argument not in self.memo:
                raise ValueError(f"its pickle asks for place {argument}, where nothing is")
            return self.memo[argument]
        if name in HOLDS:
            return 1 + sum(taken)
        if name in KEEPS or name == "DUP":
            return taken[0]
        return CONTAINER if name in CONTAINERS else 1

    def take(self, opcode: pickletools.OpcodeInfo) -> list[int]:
        """Take an instruction's operands from the stack, the lowest first."""
        below, taken = len(opcode.stack_before), []
        if pickletools.markobject in opcode.stack_before:
            below = opcode.stack_before.index(pickletools.markobject)
            while self.stack and self.stack[-1] is not None:
                taken.append(self.stack.pop())
            if not self.stack:
                raise ValueError("its pickle closes what it has not opened")
            self.stack.pop()
        for _ in range(below):
            taken.append(self.top())
            self.stack.pop()
        return taken[::-1]

    def top(self) -> int:
        """Size of the value on top of the stack."""
        if not self.stack or self.stack[-1] is None:
            raise ValueError("its pickle takes what is not there")
        return self.stack[-1]
