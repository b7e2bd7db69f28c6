"""The generation flags: named as openvino_genai names them, and sampling where it is meant."""

from __future__ import annotations

import pytest

from ov_kvcrush.cli.options.generation import FLAGS, imply_sampling
from ov_kvcrush.runtime.generation.settings import SERVED


def test_every_flag_is_a_setting_the_engine_serves() -> None:
    assert FLAGS.keys() <= SERVED


def test_a_temperature_means_sampling() -> None:
    assert imply_sampling({"temperature": 0.7}) == {"temperature": 0.7, "do_sample": True}


@pytest.mark.parametrize("given", [{"temperature": 0.0}, {"temperature": 0, "top_p": 0.9}])
def test_a_temperature_of_0_is_greedy(given: dict[str, float]) -> None:
    assert imply_sampling(given) == {**given, "do_sample": False}


def test_what_is_said_about_sampling_stays() -> None:
    given = {"temperature": 0.7, "do_sample": False}
    assert imply_sampling(given) == given


def test_other_settings_do_not_mean_sampling() -> None:
    assert imply_sampling({"rng_seed": 1, "max_new_tokens": 9}) == {
        "rng_seed": 1,
        "max_new_tokens": 9,
    }
