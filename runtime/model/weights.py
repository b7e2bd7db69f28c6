"""The weights that a step of a model multiplies with, as they lie in its file."""

from __future__ import annotations

from dataclasses import dataclass

import openvino as ov

_COMPRESSED = (ov.Type.i8, ov.Type.u8, ov.Type.i4, ov.Type.u4)

# What stands between a weight in the file and the product it goes into.
_UNPACKING = ("Convert", "Multiply", "Subtract", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of a model's weights that matrix products read, each once.

    A table that tokens are only looked up in does not count; one that makes logits too counts once.
    Of a mixture of experts all count, though a token meets few of them.

    Attributes:
        total: of all.
        compressed: of those in 8 bits and less, whose scales and zero points are among the others.
    """

    total: int
    compressed: int

    @classmethod
    def of(cls, model: ov.Model) -> WeightBytes:
        """Those of ``model``. What the plugin makes of them when it compiles may be larger."""
        constants: dict[str, ov.Node] = {}
        for node in model.get_ops():
            if node.get_type_name() == "MatMul":
                for port in node.inputs():
                    for constant in _constants_behind(port.get_source_output().get_node()):
                        constants[constant.get_friendly_name()] = constant
        sizes = [(one.get_element_type(), one.get_byte_size()) for one in constants.values()]
        compressed = sum(size for kind, size in sizes if kind in _COMPRESSED)
        return cls(sum(size for _, size in sizes), compressed)

    @property
    def are_compressed(self) -> bool:
        """Whether most of them are stored in 8 bits and less."""
        return 2 * self.compressed > self.total


def _constants_behind(node: ov.Node) -> list[ov.Node]:
    """The constants that ``node`` is made of; none where any of it is computed from inputs."""
    found, waiting = list[ov.Node](), [node]
    while waiting:
        one = waiting.pop()
        kind = one.get_type_name()
        if kind == "Constant":
            found.append(one)
        elif kind in _UNPACKING:
            waiting += [port.get_source_output().get_node() for port in one.inputs()]
        else:
            return []
    return found
