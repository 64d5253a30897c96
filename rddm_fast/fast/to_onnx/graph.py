"""An ONNX graph, node after node: arithmetic on `Value`s writes it down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ...system.extras import require

OPSET = 18
IR_VERSION = 8
"""The oldest that has this opset, because a runtime refuses files of a newer one than it knows."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name, and the dtype that numbers beside it take."""

    graph: Graph
    name: str
    dtype: Any = np.float32

    def __add__(self, other: Operand) -> Value:
        return self.graph.op("Add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return self.graph.op("Add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return self.graph.op("Sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.graph.op("Sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.graph.op("Mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return self.graph.op("Mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return self.graph.op("Div", self, other)

    def __getitem__(self, key: Any) -> Value:
        """Crop an image: `image[..., :height, :width]`, where both are of shape (1,)."""
        _, rows, columns = key
        ends = self.graph.op("Concat", rows.stop, columns.stop, axis=0)
        return self.graph.op("Slice", self, np.array([0, 0]), ends, np.array([2, 3]))

    def clamp(self, least: float, most: float) -> Value:
        return self.graph.op("Clip", self, least, most)


Operand = Value | Tensor | np.ndarray | float | None
"""What a node reads. A number is a constant of the node's dtype, and None an input that is left out."""


@dataclass
class _Scope:
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)


class Graph:
    """Nodes and constants in the order in which they are written down; a loop's body has its own."""

    def __init__(self) -> None:
        self._helper = require("onnx.helper", "onnx")
        self._numpy = require("onnx.numpy_helper", "onnx")
        self._scope = _Scope()
        self._names = 0

    def op(self, kind: str, *inputs: Operand, dtype: Any = None, name: str = "", **attributes: Any) -> Value:
        """Add a node and return its output, of the dtype of its first value unless another is given."""
        taken = next((x.dtype for x in inputs if isinstance(x, Value)), np.float32)
        names = [self._name_of(x, taken) for x in inputs]
        result = Value(self, name or self._name(), dtype or taken)
        self._scope.nodes.append(self._helper.make_node(kind, names, [result.name], **attributes))
        return result

    def shaped(self, x: Value, *shape: int) -> Value:
        """Reshape: 0 keeps a side, -1 takes what is left."""
        return self.op("Reshape", x, np.array(shape, np.int64))

    def constant(self, number: int) -> Value:
        """Return an int64 constant without dimensions."""
        return Value(self, self._name_of(number, np.int64), np.int64)

    def row(self, table: Operand, number: Value, dtype: Any = np.float32) -> Value:
        """Return the row of `table` (rows, ...) of this `number`, which has no dimensions or is one row of numbers."""
        return self.op("Gather", table, number, axis=0, dtype=dtype)

    def loop(self, count: int, carried: list[Value], step: Any) -> list[Value]:
        """Apply `step(number, *carried)`, which returns the next `carried`, for the numbers 0 to `count` - 1."""
        make = self._helper
        with self._inside() as scope:
            number, going = Value(self, self._name(), np.int64), self._name()
            state = [Value(self, self._name(), value.dtype) for value in carried]
            results = step(number, *state)
            going_on = self.op("Identity", Value(self, going, np.bool_))
        images = [self.typed(value, (None,) * 4) for value in (*state, *results)]
        numbers = [self.typed(number, ()), self.typed(Value(self, going, np.bool_), ())]
        body = make.make_graph(
            scope.nodes,
            "step",
            [*numbers, *images[: len(state)]],
            [self.typed(going_on, ()), *images[len(state) :]],
            scope.constants,
        )
        outputs = [Value(self, self._name(), value.dtype) for value in carried]
        names = [self._name_of(np.array(count, np.int64)), self._name_of(np.array(True)), *(v.name for v in carried)]
        self._scope.nodes.append(make.make_node("Loop", names, [value.name for value in outputs], body=body))
        return outputs

    def typed(self, value: Value, shape: tuple[int | str | None, ...]) -> Any:
        """Return `value` with its type, as inputs and outputs of a graph are listed; a side may have a name or none."""
        kind = self._helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
        return self._helper.make_tensor_value_info(value.name, kind, shape)

    def model(self, name: str, inputs: list[Any], outputs: list[Any], metadata: dict[str, str]) -> Any:
        """Return the ONNX model of all that was written down, with its metadata."""
        make = self._helper
        graph = make.make_graph(self._scope.nodes, name, inputs, outputs, self._scope.constants)
        opset = make.make_opsetid("", OPSET)
        model = make.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="rddm_fast")
        make.set_model_props(model, metadata)
        return model

    @contextmanager
    def _inside(self) -> Iterator[_Scope]:
        outside, self._scope = self._scope, _Scope()
        try:
            yield self._scope
        finally:
            self._scope = outside

    def _name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def _name_of(self, x: Operand, dtype: Any = None) -> str:
        if x is None:
            return ""
        if isinstance(x, Value):
            return x.name
        if isinstance(x, Tensor):
            x = x.detach().numpy()
        array, name = np.asarray(x, None if isinstance(x, np.ndarray) else dtype), self._name()
        self._scope.constants.append(self._numpy.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name
