"""The output projection found in the graph, whatever its weights are stored as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ov_kvcrush.export import ExportOptions, export_model
from ov_kvcrush.runtime.model.output_projection import find_output_projection
from ov_kvcrush.runtime.model.paged_graph import attention_nodes, read_paged_graph
from tests.support.model_factory import make_model

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Of another width on either side, so that rows are not taken for columns.
    return make_model(tmp_path_factory.mktemp("source") / "model", head_dim=32)


@pytest.mark.parametrize(
    ("weight_format", "error"), [("fp32", 1e-7), ("fp16", 1e-3), ("int8", 0.01), ("int4", 0.15)]
)
def test_weights_are_those_of_the_checkpoint(
    source: Path, weight_format: str, error: float, tmp_path: Path
) -> None:
    group: dict[str, Any] = {"group_size": 32} if weight_format == "int4" else {}
    folder = tmp_path / "model"
    options = ExportOptions(
        str(source), folder, weight_format=weight_format, calibrate=False, **group
    )
    export_model(options)
    wanted = load_file(source / "model.safetensors")
    graph = read_paged_graph(folder)  # what follows an attention lives as long as it does
    for number, attention in enumerate(attention_nodes(graph.model)):
        weights = find_output_projection(attention)
        assert weights is not None
        assert weights.shape == (64, 128)
        exact = wanted[f"model.layers.{number}.self_attn.o_proj.weight"]
        assert np.linalg.norm(weights - exact) <= error * np.linalg.norm(exact)
