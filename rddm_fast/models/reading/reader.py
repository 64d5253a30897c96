"""A reader of arithmetic: follows the methods of a published source by its syntax tree, without running any of it.

Only what `values` lists is known: arithmetic, comparisons, and a few functions of torch, NumPy and math on tables of
coefficients. Images are linear forms of named images, so that a sampling step is read as its coefficients. Anything
else has no value, and where a value is needed, `NotKnown` says which line.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .expressions import Expressions, Function
from .values import HARMLESS, MOST, Image, NotKnown, Opaque, Raised, Thing, named_tuple

STATEMENTS = 200_000
"""Statements that one reading follows at most."""


@dataclass
class Record:
    """A call that was followed: its name, arguments and result, where it stands and in which function."""

    name: str
    arguments: list[Any]
    named: dict[str, Any]
    line: int
    inside: str
    result: Any = None


@dataclass
class Constant:
    """An assignment of a plain value that was followed."""

    name: str
    value: Any
    line: int
    inside: str


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Reader(Expressions):
    """Follows the methods of one class of a module.

    Args:
        tree: the module.
        cls: the class.

    Attributes:
        me: the object that `self` is.
        overrides: methods that are not followed, by name: Python functions of the call's arguments.
        draws: how many random images were drawn.
    """

    def __init__(self, tree: ast.Module, cls: ast.ClassDef) -> None:
        self.functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self.tuples = {name: call for node in tree.body for name, call in _named_tuples(node)}
        self.methods = methods_of(cls)
        self.me = Thing()
        self.overrides: dict[str, Callable[..., Any]] = {}
        self.draws = 0
        self.clamps: list[tuple[dict[str, float], float, float]] = []
        self.records: list[Record] = []
        self.constants: list[Constant] = []
        self.lines: dict[str, int] = {}
        """The line of the last assignment to each attribute of `self`, and of each loop that was entered."""
        self.loops: list[int] = []
        self.left = STATEMENTS
        self.inside: list[str] = []

    def image(self, name: str) -> Image:
        return Image({name: 1.0}, self.clamps)

    def draw(self) -> Image:
        """Return the next random image."""
        self.draws += 1
        return self.image(f"z{self.draws - 1}")

    def method(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Follow a method of `self` and return its value.

        Raises:
            NotKnown: the method is missing, or needs something that this reader does not know.
        """
        if name not in self.methods:
            raise NotKnown(0, f"the source has no method {name}()")
        node = self.methods[name]
        try:
            return self._enter(Function(node, {}, (self.me,)), list(arguments), named, node.lineno)
        except (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            line = self.at if self.at else node.lineno
            raise NotKnown(line, f"{name}() is not known: {type(error).__name__} in reading it") from error

    # -- calls --------------------------------------------------------------------------------------------

    def _enter(self, function: Function, arguments: Sequence[Any], named: dict[str, Any], line: int) -> Any:
        node, values = function.node, [*function.first, *arguments]
        scope = dict(function.around)
        spec = node.args
        names = [argument.arg for argument in (*spec.posonlyargs, *spec.args)]
        for name, default in zip(reversed(names), reversed(spec.defaults), strict=False):
            scope[name] = self.value(default, function.around)
        for argument, default_ in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            if default_ is not None:
                scope[argument.arg] = self.value(default_, function.around)
        if len(values) > len(names):
            if spec.vararg is None:
                raise NotKnown(line, f"a call with {len(values)} arguments is not known")
            scope[spec.vararg.arg] = tuple(values[len(names) :])
        scope.update(zip(names, values, strict=False))
        known = {*names, *(argument.arg for argument in spec.kwonlyargs)}
        scope.update({name: value for name, value in named.items() if name in known})
        if len(self.inside) > 20:
            raise NotKnown(line, "a function that calls itself is not known")
        if isinstance(node, ast.Lambda):
            return self.value(node.body, scope)
        self.inside.append(node.name)
        try:
            self._block(node.body, scope)
        except _Return as returned:
            return returned.value
        finally:
            self.inside.pop()
        return None

    def _Call(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        arguments: list[Any] = []
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                arguments += self._items(self.value(argument.value, scope), node.lineno)
            else:
                arguments.append(self.value(argument, scope))
        named = {word.arg: self.value(word.value, scope) for word in node.keywords if word.arg}
        function = self.value(node.func, scope)
        text = ast.unparse(node.func)
        record = Record(text, arguments, named, node.lineno, self.inside[-1] if self.inside else "")
        self.records.append(record)
        record.result = self._called(function, text, arguments, named, node)
        return record.result

    def _called(self, function: Any, text: str, arguments: list[Any], named: dict[str, Any], node: ast.Call) -> Any:
        if isinstance(function, Function):
            return self._enter(function, arguments, named, node.lineno)
        if isinstance(function, Thing) and function.call is not None:
            return function.call(*arguments, **named)
        if callable(function) and not isinstance(function, (Tensor, Image)):
            plain = {word: value for word, value in named.items() if not isinstance(value, Opaque)}
            if text.endswith(("randn", "randn_like")):
                return self.draw()
            if text.split(".")[-1] == "partial" and arguments:
                bound, first = arguments[0], arguments[1:]
                return Thing(
                    call=lambda *more, **words: self._called(bound, "", [*first, *more], {**plain, **words}, node)
                )
            self._bounded([*arguments, *plain.values()], node.lineno)
            makes_tuple = text in self.tuples or text == "ModelResPrediction"
            if not makes_tuple and any(isinstance(argument, Opaque) for argument in arguments):
                return Opaque(ast.unparse(node), node.lineno)
            arguments = [self._python(argument, node) for argument in arguments]
            return function(*arguments, **plain)
        if text in HARMLESS:
            return Opaque(text, node.lineno)
        for value in (*arguments, *named.values()):
            for part in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(part, (Tensor, Image)) or part is self.me:
                    raise NotKnown(node.lineno, f"{text}() is not known")
        return Opaque(ast.unparse(node), node.lineno)

    def _python(self, value: Any, node: ast.Call) -> Any:
        """Return a function of the source as a Python function, for the few known functions that take one."""
        if isinstance(value, Function):
            return lambda *arguments: self._enter(value, arguments, {}, node.lineno)
        return value

    def _bounded(self, arguments: Iterable[Any], line: int) -> None:
        for argument in arguments:
            sizes = [n for n in (argument if isinstance(argument, (list, tuple)) else [argument]) if isinstance(n, int)]
            if any(abs(n) > MOST for n in sizes) or len(sizes) > MOST:
                raise NotKnown(line, f"a table of more than {MOST} entries is not known")
            if isinstance(argument, tuple) and math.prod(abs(n) for n in sizes if n) > MOST:
                raise NotKnown(line, f"a table of more than {MOST} entries is not known")

    # -- statements ---------------------------------------------------------------------------------------

    def _block(self, statements: Sequence[ast.stmt], scope: dict[str, Any]) -> None:
        for statement in statements:
            self.left -= 1
            self.at = statement.lineno
            if self.left < 0:
                raise NotKnown(statement.lineno, "a loop this long is not known")
            self._statement(statement, scope)

    def _statement(self, node: ast.stmt, scope: dict[str, Any]) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                found = self.value(value, scope)
                for target in targets:
                    self._keep_constant(target, value, found)
                    self._assign(target, found, scope)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, self.value(value, scope), scope)
            case ast.AugAssign(target=target, op=op, value=value):
                before = self.value(ast.copy_location(ast.parse(ast.unparse(target), mode="eval").body, target), scope)
                self._assign(target, self._binary(op, before, self.value(value, scope), node), scope)
            case ast.Expr(value=value):
                self.value(value, scope)
            case ast.If(test=test, body=body, orelse=orelse):
                self._block(body if self._truth(test, scope) else orelse, scope)
            case ast.For(target=target, iter=over, body=body):
                self.loops.append(node.lineno)
                for item in self._items(self.value(over, scope), node.lineno):
                    self._assign(target, item, scope)
                    try:
                        self._block(body, scope)
                    except _Continue:
                        continue
                    except _Break:
                        break
            case ast.With(body=body):
                self._block(body, scope)
            case ast.FunctionDef(name=name):
                scope[name] = Function(node, scope)
            case ast.Return(value=value):
                raise _Return(None if value is None else self.value(value, scope))
            case ast.Continue():
                raise _Continue
            case ast.Break():
                raise _Break
            case ast.Raise():
                raise Raised(node.lineno, f"{ast.unparse(node)[:60]} is reached")
            case ast.Pass() | ast.Assert() | ast.Import() | ast.ImportFrom():
                pass
            case _:
                raise NotKnown(node.lineno, f"{ast.unparse(node).splitlines()[0][:60]} is not known")

    def _keep_constant(self, target: ast.expr, value: ast.expr, found: Any) -> None:
        if isinstance(target, ast.Name) and isinstance(value, (ast.Constant, ast.UnaryOp)):
            self.constants.append(Constant(target.id, found, target.lineno, self.inside[-1] if self.inside else ""))

    def _assign(self, target: ast.expr, value: Any, scope: dict[str, Any]) -> None:
        match target:
            case ast.Name(id=name):
                if isinstance(value, Image):
                    value.line = target.lineno
                scope[name] = value
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                unknown = isinstance(value, Opaque)
                items: list[Any] = [value] * len(parts) if unknown else self._items(value, target.lineno)
                star = next((i for i, part in enumerate(parts) if isinstance(part, ast.Starred)), None)
                if star is not None:
                    end = len(items) - (len(parts) - star - 1)
                    items = [*items[:star], items[star:end], *items[end:]]
                if len(items) != len(parts):
                    raise NotKnown(target.lineno, f"{ast.unparse(target)} is given {len(items)} values")
                for part, item in zip(parts, items, strict=True):
                    self._assign(part.value if isinstance(part, ast.Starred) else part, item, scope)
            case ast.Attribute(value=owner_node, attr=name):
                owner = self.value(owner_node, scope)
                if isinstance(owner, Thing):
                    owner.attributes[name] = value
                    if owner is self.me:
                        self.lines[name] = target.lineno
            case ast.Subscript(value=owner_node, slice=index_node):
                owner, index = self.value(owner_node, scope), self.value(index_node, scope)
                if not isinstance(owner, (Tensor, list)) or isinstance(index, Opaque) or isinstance(value, Opaque):
                    raise NotKnown(target.lineno, f"{ast.unparse(target)[:60]} is not known")
                owner[index] = value
            case _:
                raise NotKnown(target.lineno, f"{ast.unparse(target)[:60]} is not known")


def _named_tuples(node: ast.stmt) -> list[tuple[str, Callable[..., Thing]]]:
    """Return the name and the constructor of `Name = namedtuple("Name", ["field", ...])`."""
    match node:
        case ast.Assign(
            targets=[ast.Name(id=name)],
            value=ast.Call(args=[_, ast.List(elts=fields) | ast.Tuple(elts=fields)]),
        ) if "namedtuple" in ast.unparse(node.value):
            return [(name, named_tuple([part.value for part in fields if isinstance(part, ast.Constant)]))]
    return []


def methods_of(cls: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    """Return the methods of a class by name. Of two with one name the last counts, as in Python."""
    return {node.name: node for node in cls.body if isinstance(node, ast.FunctionDef)}
