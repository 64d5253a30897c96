"""The values of a source's expressions. `reader` adds its calls and statements."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .values import BINARY, COMPARE, LIST_METHODS, MOST, NATIVE, TENSOR_METHODS, Image, NotKnown, Opaque, Thing, binary


@dataclass
class Function:
    """A function of the source, with the variables it closes over."""

    node: ast.FunctionDef | ast.Lambda
    around: dict[str, Any]
    first: tuple[Any, ...] = ()


class Expressions:
    """The values of expressions, in a scope of local variables. See `reader.Reader` for the attributes."""

    functions: dict[str, ast.FunctionDef]
    tuples: dict[str, Callable[..., Thing]]
    methods: dict[str, ast.FunctionDef]
    me: Thing
    overrides: dict[str, Callable[..., Any]]
    at = 0
    """The line that is being read."""

    def _Call(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _assign(self, target: ast.expr, value: Any, scope: dict[str, Any]) -> None:
        raise NotImplementedError

    def value(self, node: ast.expr, scope: dict[str, Any]) -> Any:
        """Return the value of an expression."""
        self.at = node.lineno
        known = getattr(self, f"_{type(node).__name__}", None)
        if known is None:
            raise NotKnown(node.lineno, f"{ast.unparse(node)[:60]} is not known")
        return known(node, scope)

    def _Constant(self, node: ast.Constant, scope: dict[str, Any]) -> Any:
        return node.value

    def _JoinedStr(self, node: ast.JoinedStr, scope: dict[str, Any]) -> Any:
        return ""

    def _Name(self, node: ast.Name, scope: dict[str, Any]) -> Any:
        if node.id in scope:
            return scope[node.id]
        if node.id in self.tuples:
            return self.tuples[node.id]
        if node.id in NATIVE:
            return NATIVE[node.id]
        if node.id in self.functions:
            return Function(self.functions[node.id], {})
        return Opaque(node.id, node.lineno)

    def _Attribute(self, node: ast.Attribute, scope: dict[str, Any]) -> Any:
        dotted = ast.unparse(node)
        if dotted in NATIVE and dotted.split(".")[0] not in scope:
            return NATIVE[dotted]
        owner, name = self.value(node.value, scope), node.attr
        if owner is self.me:
            if name in self.overrides:
                return self.overrides[name]
            if name in owner.attributes:
                return owner.attributes[name]
            if name in self.methods:
                return Function(self.methods[name], {}, (self.me,))
            return Opaque(dotted, node.lineno)
        if isinstance(owner, Thing):
            return owner.attributes.get(name, Opaque(dotted, node.lineno))
        if isinstance(owner, Tensor) and name in ("shape", *TENSOR_METHODS):
            return tuple(owner.shape) if name == "shape" else getattr(owner, name)
        if isinstance(owner, list) and name in LIST_METHODS:
            return getattr(owner, name)
        if isinstance(owner, Image) and name in ("shape", "clamp", "clip"):
            return owner.shape if name == "shape" else owner.clamp
        return Opaque(dotted, node.lineno)

    def _Tuple(self, node: ast.Tuple, scope: dict[str, Any]) -> Any:
        return tuple(self._elements(node.elts, scope))

    def _List(self, node: ast.List, scope: dict[str, Any]) -> Any:
        return self._elements(node.elts, scope)

    def _elements(self, nodes: Sequence[ast.expr], scope: dict[str, Any]) -> list[Any]:
        found: list[Any] = []
        for element in nodes:
            if isinstance(element, ast.Starred):
                found += self._items(self.value(element.value, scope), element.lineno)
            else:
                found.append(self.value(element, scope))
            if len(found) > MOST:
                raise NotKnown(element.lineno, f"a list of more than {MOST} entries is not known")
        return found

    def _ListComp(self, node: ast.ListComp, scope: dict[str, Any]) -> Any:
        (loop,) = node.generators
        found, inner = [], dict(scope)
        for item in self._items(self.value(loop.iter, scope), node.lineno):
            self._assign(loop.target, item, inner)
            if all(self._truth(test, inner) for test in loop.ifs):
                found.append(self.value(node.elt, inner))
        return found

    def _BinOp(self, node: ast.BinOp, scope: dict[str, Any]) -> Any:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        return self._binary(node.op, left, right, node)

    def _binary(self, op: ast.operator, left: Any, right: Any, node: ast.AST) -> Any:
        line = getattr(node, "lineno", 0)
        if isinstance(left, Opaque) or isinstance(right, Opaque):
            return Opaque(ast.unparse(node), line)
        if type(op) not in BINARY:
            raise NotKnown(line, f"{ast.unparse(node)[:60]} is not known")
        return binary(BINARY[type(op)], left, right, line)

    def _UnaryOp(self, node: ast.UnaryOp, scope: dict[str, Any]) -> Any:
        if isinstance(node.op, ast.Not):
            return not self._truth(node.operand, scope)
        value = self.value(node.operand, scope)
        if isinstance(value, Opaque) or isinstance(node.op, ast.Invert):
            return Opaque(ast.unparse(node), node.lineno)
        return -value if isinstance(node.op, ast.USub) else value

    def _BoolOp(self, node: ast.BoolOp, scope: dict[str, Any]) -> Any:
        stop = isinstance(node.op, ast.Or)
        value: Any = None
        for part in node.values:
            value = self.value(part, scope)
            if self._true(value, part) is stop:
                break
        return value

    def _Compare(self, node: ast.Compare, scope: dict[str, Any]) -> Any:
        left = self.value(node.left, scope)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node, scope)
            if isinstance(left, Opaque) or isinstance(right, Opaque):
                return Opaque(ast.unparse(node), node.lineno)
            if not self._true(COMPARE[type(op)](left, right), node):
                return False
            left = right
        return True

    def _IfExp(self, node: ast.IfExp, scope: dict[str, Any]) -> Any:
        return self.value(node.body if self._truth(node.test, scope) else node.orelse, scope)

    def _Lambda(self, node: ast.Lambda, scope: dict[str, Any]) -> Any:
        return Function(node, scope)

    def _Slice(self, node: ast.Slice, scope: dict[str, Any]) -> Any:
        ends = (node.lower, node.upper, node.step)
        return slice(*(None if end is None else self.value(end, scope) for end in ends))

    def _Subscript(self, node: ast.Subscript, scope: dict[str, Any]) -> Any:
        owner, index = self.value(node.value, scope), self.value(node.slice, scope)
        if isinstance(owner, Opaque) or isinstance(index, Opaque):
            return Opaque(ast.unparse(node), node.lineno)
        if isinstance(owner, (Tensor, list, tuple)):
            return owner[index]
        raise NotKnown(node.lineno, f"{ast.unparse(node)[:60]} is not known")

    def _items(self, value: Any, line: int) -> list[Any]:
        if isinstance(value, (Opaque, Image, Thing)):
            raise NotKnown(line, f"what {getattr(value, 'text', 'an image')} holds is not known")
        return list(value)

    def _truth(self, node: ast.expr, scope: dict[str, Any]) -> bool:
        return self._true(self.value(node, scope), node)

    def _true(self, value: Any, node: ast.expr) -> bool:
        if isinstance(value, (Opaque, Image)):
            raise NotKnown(node.lineno, f"whether {ast.unparse(node)[:60]} holds is not known")
        return bool(value)
