"""The text of a kernel as registers, variables, labels and instructions."""

import re
from typing import NamedTuple

import numpy as np

from ptx_interpreter.errors import PTXError

DTYPES = {
    "pred": "?", "b8": "u1", "u8": "u1", "s8": "i1", "b16": "u2", "u16": "u2", "s16": "i2", "f16": "f2",
    "b32": "u4", "u32": "u4", "s32": "i4", "f32": "f4", "b64": "u8", "u64": "u8", "s64": "i8", "f64": "f8",
}  # fmt: skip
DTYPES = {name: np.dtype(code) for name, code in DTYPES.items()}

ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)(.*?)\{", re.DOTALL)
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+"
    r"(?:\.ptr\s+(?:\.(?!align)\w+\s+)?(?:\.align\s+\d+\s+)?)?([\w$]+)"
)
VARIABLE = re.compile(
    r"\.(shared|local|global|const)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(\[(\d*)\])?[^;]*;"
)
INSTRUCTION = re.compile(r"(?:@(!?%[\w$@]+)\s+)?([a-z][\w.:]*)\s*(.*)")
REGISTER_RANGE = re.compile(r"(%[\w$]+?)<(\d+)>")


class Instruction(NamedTuple):
    """One instruction, as in ``@%p1 ld.global.f32 %f1, [%rd2+4];``."""

    line: int
    guard: str | None  # %p1
    opcode: str  # ld
    modifiers: tuple[str, ...]  # global, f32
    operands: tuple[str, ...]
    text: str


class Variable(NamedTuple):
    """A variable in shared or local memory; that of dynamic shared memory has no size."""

    space: str
    alignment: int
    size: int | None


def split_operands(text: str) -> list[str]:
    """Split at the commas outside of brackets."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char in "{[(") - (char in "}])")
        if char == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    return [*parts, current.strip()] if current.strip() else parts


def without_comments(text: str) -> str:
    """The text with all lines where they were."""
    text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


class KernelText:
    """The parsed text of one kernel.

    Attributes
    ----------
    parameters : dict of str to dtype
        In order.
    variables : dict of str to Variable
        Those in shared and local memory.
    registers : dict of str to dtype
        Those of an inner scope have its number in their names.
    instructions : list of Instruction
    labels : dict of str to int
        The instruction behind each label.
    """

    def __init__(self, text: str) -> None:
        text = without_comments(text)
        entry = ENTRY.search(text)
        if entry is None or len(re.findall(r"\.entry\b", text)) != 1:
            raise PTXError("the text must have one kernel")
        if re.search(r"\.func\b", text):
            raise PTXError("device functions (.func) are not supported")
        self.parameters = {name: DTYPES[kind] for kind, name in PARAMETER.findall(entry[2])}
        self.variables: dict[str, Variable] = {}
        self.registers: dict[str, np.dtype] = {}
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self._declare(text[: entry.start()])
        self._scopes: list[dict[str, str]] = []
        self._scope_count = 0
        self._read_body(text, entry.end())
        # The assembler leaves out variables that no instruction names.
        named = {word for each in self.instructions for word in re.findall(r"[\w$]+", each.text)}
        self.variables = {name: each for name, each in self.variables.items() if name in named}

    def _declare(self, text: str) -> None:
        for space, alignment, kind, name, brackets, count in VARIABLE.findall(text):
            size = DTYPES[kind].itemsize
            total = size * int(count) if count else (None if brackets else size)
            if space in ("shared", "local"):  # an operand that names another one is an error
                self.variables[name] = Variable(space, int(alignment or size), total)

    def _read_body(self, text: str, at: int) -> None:
        """All statements from the brace that opens the body to the one that closes it."""
        line, begun, statement = text.count("\n", 0, at) + 1, 0, ""
        self._scopes.append({})
        for char in text[at:]:
            if char == "\n":
                line += 1
            if char == "{" and not statement.strip():
                self._scope_count += 1
                self._scopes.append({})
            elif char == "}" and not statement.strip():
                self._scopes.pop()
                if not self._scopes:
                    return
            elif char == ":" and re.fullmatch(r"\s*[\w$]+", statement):
                self.labels[statement.strip()] = len(self.instructions)
                statement = ""
            elif char == ";":
                self._read_statement(" ".join(statement.split()), begun)
                statement = ""
            else:
                if not statement.strip():
                    begun = line
                statement += char
        raise PTXError("the kernel has no end")

    def _read_statement(self, text: str, line: int) -> None:
        if text.startswith((".pragma ", ".loc ")):
            return
        if text.startswith(".reg"):
            self._declare_registers(text)
            return
        if text.startswith("."):
            if VARIABLE.fullmatch(text + ";") is None:
                raise PTXError(f"line {line}: {text}")
            self._declare(text + ";")
            return
        for scope in self._scopes[1:]:
            for plain, unique in scope.items():
                text = re.sub(re.escape(plain) + r"\b", unique, text)
        guard, opcode, operands = INSTRUCTION.fullmatch(text).groups()
        name, *modifiers = opcode.split(".")
        parts = tuple(split_operands(operands))
        self.instructions.append(Instruction(line, guard, name, tuple(modifiers), parts, text))

    def _declare_registers(self, text: str) -> None:
        """As in ``.reg .b32 %r<9>;``, which is %r0 to %r8."""
        kind, names = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text).groups()
        for name in split_operands(names):
            found = REGISTER_RANGE.fullmatch(name)
            for plain in [f"{found[1]}{k}" for k in range(int(found[2]))] if found else [name]:
                unique = plain if len(self._scopes) == 1 else f"{plain}@{self._scope_count}"
                self._scopes[-1][plain] = unique
                self.registers[unique] = DTYPES[kind]
