"""The output projection found in the graph, whatever its weights are stored as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from ov_kvcrush.export import ExportOptions, export_model
from ov_kvcrush.runtime.model.output_projection import find_output_projection
from ov_kvcrush.runtime.model.paged_graph import attention_nodes, read_paged_graph
from tests.support.model_factory import make_model
from tests.support.paths import NEEDLE

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's


def assert_found(folder: Path, source: Path, error: float) -> None:
    """All of them, in ``folder``, as near to those of ``source`` as that.

    Models of another width on either side are asked about, so that rows are not taken for columns.
    """
    wanted = load_file(source / "model.safetensors")
    graph = read_paged_graph(folder)  # what follows an attention lives as long as it does
    for number, attention in enumerate(attention_nodes(graph.model)):
        weights = find_output_projection(attention)
        assert weights is not None
        exact = wanted[f"model.layers.{number}.self_attn.o_proj.weight"].float().numpy()
        assert weights.shape == exact.shape
        assert len(set(weights.shape)) == 2
        assert np.linalg.norm(weights - exact) <= error * np.linalg.norm(exact)


def test_weights_that_are_not_compressed_are_those_of_the_checkpoint(needle_f32_dir: Path) -> None:
    assert_found(needle_f32_dir, NEEDLE, 1e-7)


def test_weights_in_int8_are_nearly_those_of_the_checkpoint(needle_int8_dir: Path) -> None:
    assert_found(needle_int8_dir, NEEDLE, 0.01)


@pytest.mark.parametrize(("weight_format", "error"), [("fp16", 1e-3), ("int4", 0.15)])
def test_weights_are_nearly_those_of_the_checkpoint(
    weight_format: str, error: float, tmp_path: Path
) -> None:
    source, folder = make_model(tmp_path / "source", head_dim=32), tmp_path / "model"
    group: dict[str, Any] = {"group_size": 32} if weight_format == "int4" else {}
    options = ExportOptions(
        str(source), folder, weight_format=weight_format, calibrate=False, **group
    )
    export_model(options)
    assert_found(folder, source, error)
