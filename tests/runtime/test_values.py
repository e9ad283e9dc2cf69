"""Numbers that nothing can be built from are one line with owner, name and value, whatever they are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.values import (
    MOST,
    require_equal,
    require_heads,
    require_number,
    require_numbers,
    require_share,
    require_whole,
)

NO_NUMBERS = st.none() | st.booleans() | st.text(max_size=5) | st.lists(st.integers(), max_size=2) | st.just({"a": 1})
NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf, 10**400])


def refusal(check, *arguments, **values):
    with pytest.raises(UsageError) as caught:
        check("Part", *arguments, **values)
    message = str(caught.value)
    assert message.startswith("Part: ") and " must be " in message and "\n" not in message
    return message


@given(st.integers(max_value=0) | st.integers(min_value=MOST + 1) | st.floats() | NO_NUMBERS | NOT_FINITE)
def test_whole_numbers_are_within_their_range_and_nothing_else(value):
    assert "layers=" in refusal(require_whole, 1, layers=value)


@given(st.integers(1, MOST))
def test_whole_numbers_in_range_pass(value):
    require_whole("Part", 1, layers=value)


@given(st.floats(max_value=0, exclude_max=True) | NO_NUMBERS | NOT_FINITE)
def test_numbers_below_their_range_are_refused(value):
    refusal(require_number, 0, weight=value)


@given(st.floats(1, exclude_min=True) | st.floats(max_value=-1e-300) | NO_NUMBERS | NOT_FINITE)
def test_shares_are_from_0_to_1(value):
    refusal(require_share, dropout=value)


@given(st.floats(0, 1))
def test_shares_pass(value):
    require_share("Part", dropout=value)


@given(st.lists(st.floats(-1e300, 1e300), max_size=3), st.sampled_from([math.nan, math.inf, None, True, "1"]))
def test_one_wrong_element_is_enough(good, wrong):
    refusal(require_numbers, pixel_mean=[*good, wrong])


@pytest.mark.parametrize("wrong", [[], None, 3.0, "12", [1.0, 0.0], [-1.0], {"a": 1}])
def test_deviations_are_a_list_of_positive_numbers(wrong):
    assert "above 0" in refusal(require_numbers, 0, open_low=True, pixel_std=wrong)


def test_lists_of_a_config_pass():
    require_numbers("Part", 0, open_low=True, pixel_std=OmegaConf.create([1, 2.5]))


@given(st.integers(1, 64), st.integers(1, 64))
def test_heads_divide_the_width(embed_dim, num_heads):
    if embed_dim % num_heads:
        assert f"a multiple of num_heads={num_heads}" in refusal(require_heads, embed_dim, num_heads)
    else:
        require_heads("Part", embed_dim, num_heads)


def test_numbers_of_two_parts_are_compared_where_both_have_one():
    require_equal("Part", "levels", 4, encoder=4, decoder=None)
    assert "that of the decoder, 5" in refusal(require_equal, "levels", 4, encoder=4, decoder=5)
