"""Sixteen float32 at a time, for loops that the compiler makes no good vector code of by itself.

Numba's arrays may overlap for all the compiler knows, so what a loop sums up in an array goes to
memory and back at every turn. A vector is a variable, which stays in a register.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
"""Elements of a vector."""
LINE = 64
"""Bytes of a cache line."""

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)
_BYTES = ir.IntType(8).as_pointer()
_ALIGNMENT = 4  # NumPy promises no more
_FAST = ("contract", "reassoc", "nsz", "arcp")


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


_VECTOR = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Pointer to element ``index`` of a contiguous array, counted as if it had one dimension."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def load(context: Any, array: Any, index: Any) -> Any:
    """The vector that begins at element ``index`` of a contiguous float32 array, laid out flat."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1])
        pointer = builder.bitcast(place, _FLOATS.as_pointer())
        return builder.load(pointer, align=_ALIGNMENT)

    return _VECTOR(array, types.intp), generate


@intrinsic
def store(context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write ``vector`` to a contiguous float32 array, as :func:`load`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1])
        pointer = builder.bitcast(place, _FLOATS.as_pointer())
        builder.store(args[2], pointer, align=_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(array, types.intp, _VECTOR), generate


@intrinsic
def store_bytes(context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write ``vector``, of 0 to 255, to a contiguous uint8 array; halves go to the even number."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1])
        kind = ir.VectorType(ir.IntType(8), LANES)
        whole = builder.fptosi(_call(builder, "llvm.rint.v16f32", _FLOATS, [args[2]]), _INTS)
        builder.store(builder.trunc(whole, kind), builder.bitcast(place, kind.as_pointer()), 1)
        return context.get_dummy_value()

    return types.void(array, types.intp, _VECTOR), generate


@intrinsic
def load_bytes(context: Any, array: Any, index: Any) -> Any:
    """The vector of the bytes that begin at ``index`` of a contiguous uint8 array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1])
        kind = ir.VectorType(ir.IntType(8), LANES)
        whole = builder.load(builder.bitcast(place, kind.as_pointer()), align=1)
        # Of 32 bits with a sign: without one they would be converted by detours.
        return builder.sitofp(builder.zext(whole, _INTS), _FLOATS)

    return _VECTOR(array, types.intp), generate


@intrinsic
def copy_bytes(context: Any, source: Any, begin: Any, target: Any, place: Any, count: Any) -> Any:
    """Copy ``count`` bytes from one contiguous uint8 array to another, both laid out flat."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = _place(context, builder, signature.args[0], args[0], args[1])
        end = _place(context, builder, signature.args[2], args[2], args[3])
        cgutils.raw_memcpy(builder, end, start, args[4], 1)
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp, types.intp), generate


@intrinsic
def fetch_ahead(context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of element ``index`` of a contiguous array, laid out flat."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1])
        kinds = [_BYTES, _INT, _INT, _INT]
        kind = ir.FunctionType(ir.VoidType(), kinds)
        name = "llvm.prefetch.p0i8"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        # To be read, kept in all caches, data.
        builder.call(function, [builder.bitcast(place, _BYTES), _INT(0), _INT(3), _INT(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def splat(context: Any, value: Any) -> Any:
    """A vector of ``value`` alone."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, args[0])

    return _VECTOR(types.float32), generate


@intrinsic
def splat_from(context: Any, array: Any, index: Any) -> Any:
    """A vector of element ``index`` of a contiguous float32 array, laid out flat."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1])
        return _splat(builder, builder.load(place, align=_ALIGNMENT))

    return _VECTOR(array, types.intp), generate


def _splat(builder: Any, value: Any) -> Any:
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, _INT(0))
    return builder.shuffle_vector(first, ir.Constant(_FLOATS, ir.Undefined), _INTS([0] * LANES))


def _call(builder: Any, name: str, result: Any, arguments: Any, fastmath: Any = ()) -> Any:
    kind = ir.FunctionType(result, [one.type for one in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments, fastmath=fastmath)


def _of_vectors(count: int, make: Callable[..., Any]) -> Any:
    """An intrinsic that makes a vector of ``count`` vectors; ``make(builder, *vectors)``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return make(builder, *args)

    return _VECTOR(*[_VECTOR] * count), generate


@intrinsic
def multiply_add(context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once."""
    return _of_vectors(3, lambda builder, *abc: _call(builder, "llvm.fma.v16f32", _FLOATS, abc))


@intrinsic
def add(context: Any, a: Any, b: Any) -> Any:
    """``a + b``."""
    return _of_vectors(2, lambda builder, a, b: builder.fadd(a, b))


@intrinsic
def subtract(context: Any, a: Any, b: Any) -> Any:
    """``a - b``."""
    return _of_vectors(2, lambda builder, a, b: builder.fsub(a, b))


@intrinsic
def multiply(context: Any, a: Any, b: Any) -> Any:
    """``a * b``."""
    return _of_vectors(2, lambda builder, a, b: builder.fmul(a, b))


@intrinsic
def divide(context: Any, a: Any, b: Any) -> Any:
    """``a / b``, rounded as IEEE says."""
    return _of_vectors(2, lambda builder, a, b: builder.fdiv(a, b))


@intrinsic
def smaller(context: Any, a: Any, b: Any) -> Any:
    """The smaller of each two."""
    return _of_vectors(
        2, lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b)
    )


@intrinsic
def larger(context: Any, a: Any, b: Any) -> Any:
    """The larger of each two."""
    return _of_vectors(
        2, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b)
    )


@intrinsic
def where_at_least(context: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
    """``x`` where ``a >= b``, elsewhere ``y``."""
    return _of_vectors(
        4, lambda builder, a, b, x, y: builder.select(builder.fcmp_ordered(">=", a, b), x, y)
    )


@intrinsic
def total(context: Any, vector: Any) -> Any:
    """The sum of the elements."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        summands = [_FLOAT(0.0), args[0]]
        return _call(builder, "llvm.vector.reduce.fadd.v16f32", _FLOAT, summands, _FAST)

    return types.float32(_VECTOR), generate


# The coefficients of 2**f for f from -1/2 to 1/2, the highest power first.
_POWERS = (1.5403530e-4, 1.3333558e-3, 9.6181291e-3, 5.5504109e-2, 2.4022651e-1, 6.9314718e-1, 1.0)


@intrinsic
def exp2(context: Any, x: Any) -> Any:
    """2**x for x <= 0, to about 2e-7 relative; what is below -126 counts as that."""

    def generate(builder: Any, x: Any) -> Any:
        def every(value: float) -> Any:
            return ir.Constant(_FLOATS, [_rounded(value)] * LANES)

        least = every(-126.0)
        y = builder.select(builder.fcmp_ordered(">", x, least), x, least)
        whole = _call(builder, "llvm.rint.v16f32", _FLOATS, [y])
        f = builder.fsub(y, whole)
        p = every(_POWERS[0])
        for coefficient in _POWERS[1:]:
            p = _call(builder, "llvm.fma.v16f32", _FLOATS, [p, f, every(coefficient)])
        exponent = builder.add(builder.fptosi(whole, _INTS), _INTS([127] * LANES))
        bits = builder.shl(exponent, _INTS([23] * LANES))
        return builder.fmul(p, builder.bitcast(bits, _FLOATS))

    return _of_vectors(1, generate)


def _rounded(value: float) -> Any:
    return _FLOAT(float(np.float32(value)))
