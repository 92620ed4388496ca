"""A reader of pickles that executes nothing: it knows data, and the names of a table.

A pickle is a program for a small stack machine. Python's own machine imports what the program names and calls it with
what the program gives, which is why a pickle from a stranger can do anything. The machine here is written anew, so
that its whole behaviour is in this file: it has an instruction for numbers, text, tuples, lists and dictionaries, and
none that imports. A name (`GLOBAL`) is looked up in the table `admitted`; a call (`REDUCE`) is possible only for a
`Call` of that table, each of which makes one inert record from checked arguments. An instruction that is not in
`_STEPS` (objects of classes, extension codes, sets, buffers) is refused, and so is every name that is not in the table.
`pickletools.genops` takes the bytes apart; it makes numbers and text of them and nothing else.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import FileFormatError

MAX_INSTRUCTIONS = 500_000  # some 10,000 tensors; each may need 64 bytes of memory
MAX_COPIED = 500_000  # items of all containers that calls make: a call costs an instruction, and copies its argument
MAX_LINE = 1 << 14  # bytes of a number or a name in text
MAX_BITS = 128  # of an integer: PyTorch's magic number has 80
KEYS = (str, int, float, bool, type(None))  # of dictionaries: what nobody can make slow to hash

ADVICE = (
    "only tensors and plain containers are read; of a whole module or other objects, save model.state_dict() anew, "
    "where you trust the file"
)


@dataclass(frozen=True)
class Call:
    """What a pickle may call: `make` gets the arguments' tuple, checks it, and gives plain data or a record."""

    name: str
    make: Callable[[tuple[Any, ...]], Any]


@dataclass(frozen=True)
class Inert:
    """What a pickle holds besides tensors and containers, and nobody here needs: only its kind, for errors."""

    kind: str


class _Refused(Exception):
    """What is wrong at the current instruction."""


class _ShortLines:
    """A file whose lines end after MAX_LINE bytes: to read a number of millions of digits takes minutes."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.read, self.tell = file.read, file.tell

    def readline(self) -> bytes:
        return bytes(self._file.readline(MAX_LINE))


class RestrictedUnpickler:
    """Reads pickles; `admitted` maps "module.name" to what it stands for, `persistent` gets persistent ids."""

    def __init__(self, admitted: Mapping[str, Any], persistent: Callable[[Any], Any]) -> None:
        self._admitted = admitted
        self._persistent = persistent
        self._left = MAX_INSTRUCTIONS
        self._copies_left = MAX_COPIED
        self._clear()

    def _clear(self) -> None:
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []  # the stacks below each MARK
        self._memo: dict[int, Any] = {}

    def load(self, file: Any) -> Any:
        """The next pickle of a binary `file`, which then stands behind it.

        Raises FileFormatError with the position and the rule. What is made holds no cycle that is not in the file
        and is never walked, compared or printed here.
        """
        self._clear()
        start, where = file.tell(), "its start"
        try:
            lines: Any = _ShortLines(file)
            for instruction, argument, position in pickletools.genops(lines):
                where = f"byte {position if position is not None else start}, {instruction.name}"
                self._step(instruction.name, argument)
            if len(self._stack) != 1 or self._marked:
                raise _Refused(f"{len(self._stack)} values are left at its end, it must be 1")
            return self._stack[0]
        except FileFormatError as error:
            raise FileFormatError(f"pickle, {where}: {error}") from None
        except _Refused as error:
            raise FileFormatError(f"pickle, {where}: {error}") from None
        except IndexError:
            raise FileFormatError(f"pickle, {where}: it takes a value that is not there") from None
        except (ValueError, OverflowError, KeyError, SyntaxError) as error:  # genops, on what is no pickle
            raise FileFormatError(f"pickle, after {where}: {error}") from None

    def _step(self, name: str, argument: Any) -> None:
        self._left -= 1
        if self._left < 0:
            raise _Refused(f"more than {MAX_INSTRUCTIONS:,} instructions")
        step = _STEPS.get(name)
        if step is None:
            raise _Refused(f"refused: the instruction {name}; {ADVICE}")
        step(self, argument)

    # ---- stack and memo ----
    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _ignore(self, argument: Any) -> None:
        """An instruction that says nothing about values."""

    def _mark(self, argument: Any) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        if not self._marked:
            raise _Refused("there is no MARK before it")
        values, self._stack = self._stack, self._marked.pop()
        return values

    def _pop(self, argument: Any) -> None:
        self._stack.pop()

    def _pop_mark(self, argument: Any) -> None:
        self._since_mark()

    def _put(self, argument: Any) -> None:
        self._memo[len(self._memo) if argument is None else int(argument)] = self._stack[-1]

    def _get(self, argument: Any) -> None:
        if int(argument) not in self._memo:
            raise _Refused(f"there is no value {argument} to get")
        self._push(self._memo[int(argument)])

    # ---- values ----
    def _literal(self, argument: Any) -> None:
        if isinstance(argument, int) and argument.bit_length() > MAX_BITS:
            raise _Refused(f"an integer of {argument.bit_length()} bits, it may have {MAX_BITS}")
        self._push(argument)

    def _tuple(self, argument: Any) -> None:
        self._push(tuple(self._since_mark()))

    def _last_as_tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError
        values = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._push(values)

    def _list(self, argument: Any) -> None:
        self._push(self._since_mark())

    def _dict(self, argument: Any) -> None:
        values = self._since_mark()
        self._push({})
        self._set(values)

    def _append(self, argument: Any) -> None:
        value = self._stack.pop()
        self._extend([value])

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise _Refused(f"it adds to a {type(target).__name__}, it must be a list")
        target.extend(values)

    def _set_item(self, argument: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            raise _Refused(f"it sets an item of a {type(target).__name__}, it must be a dictionary")
        if len(values) % 2:
            raise _Refused("a key has no value")
        fill(target, list(zip(values[::2], values[1::2], strict=True)))

    # ---- names and calls ----
    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _stack_global(self, argument: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Refused("module and name must be text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self._admitted:
            raise _Refused(f"refused: {full if len(full) <= 200 else full[:200] + '...'}; {ADVICE}")
        self._push(self._admitted[full])

    def _reduce(self, argument: Any) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, Call):
            raise _Refused(f"refused: a call of what is not a function ({type(called).__name__})")
        if type(arguments) is not tuple:
            raise _Refused(f"the arguments of {called.name} must be a tuple")
        made = called.make(arguments)
        if isinstance(made, (dict, tuple)):
            self._copies_left -= len(made)
            if self._copies_left < 0:
                raise _Refused(f"calls that make containers of more than {MAX_COPIED:,} items")
        self._push(made)

    def _build(self, argument: Any) -> None:
        """Attributes: an OrderedDict of PyTorch's has `_metadata`, which says nothing about the tensors."""
        state, target = self._stack.pop(), self._stack[-1]
        if type(target) is Inert and type(state) is tuple:  # a dtype of NumPy's
            return
        if type(target) is not dict or type(state) is not dict:
            what = target.kind if type(target) is Inert else f"a {type(target).__name__}"
            raise _Refused(f"refused: attributes of {what}")

    def _persistent_id(self, argument: Any) -> None:
        self._push(self._persistent(self._stack.pop()))


def fill(target: dict[Any, Any], items: list[Any]) -> None:
    """Set `items`, pairs of key and value, in `target`; FileFormatError for another kind of key."""
    for key, value in items:
        if not isinstance(key, KEYS):
            raise FileFormatError(f"a key is a {type(key).__name__}, it must be text or a number")
        target[key] = value


def _constant(value: Any) -> Callable[[RestrictedUnpickler, Any], None]:
    return lambda machine, argument: machine._push(value)


_LITERALS = (
    "INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES"
)
_Step = Callable[[RestrictedUnpickler, Any], None]
_STEPS: dict[str, _Step] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), RestrictedUnpickler._ignore),
    **dict.fromkeys(_LITERALS.split(), RestrictedUnpickler._literal),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda machine, argument: machine._push([]),
    "EMPTY_DICT": lambda machine, argument: machine._push({}),
    "TUPLE": RestrictedUnpickler._tuple,
    "TUPLE1": lambda machine, argument: machine._last_as_tuple(1),
    "TUPLE2": lambda machine, argument: machine._last_as_tuple(2),
    "TUPLE3": lambda machine, argument: machine._last_as_tuple(3),
    "LIST": RestrictedUnpickler._list,
    "DICT": RestrictedUnpickler._dict,
    "APPEND": RestrictedUnpickler._append,
    "APPENDS": lambda machine, argument: machine._extend(machine._since_mark()),
    "SETITEM": RestrictedUnpickler._set_item,
    "SETITEMS": lambda machine, argument: machine._set(machine._since_mark()),
    "MARK": RestrictedUnpickler._mark,
    "POP": RestrictedUnpickler._pop,
    "POP_MARK": RestrictedUnpickler._pop_mark,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), RestrictedUnpickler._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), RestrictedUnpickler._get),
    "GLOBAL": RestrictedUnpickler._global,
    "STACK_GLOBAL": RestrictedUnpickler._stack_global,
    "REDUCE": RestrictedUnpickler._reduce,
    "BUILD": RestrictedUnpickler._build,
    "BINPERSID": RestrictedUnpickler._persistent_id,
}
