from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import Config, parse


@given(st.text(max_size=3_500))
def test_a_message_of_usual_length_is_unchanged(message: str) -> None:
    assert str(UserError(message)) == message


@pytest.mark.parametrize("value", ["x" * 7_000, ["y"] * 7_000])
def test_the_middle_of_a_long_value_is_left_out_and_key_and_remedy_stay(value: object) -> None:
    class Some(Config):
        count: int = 0

    with pytest.raises(UserError) as raised:
        parse(Some, {"count": value}, "params.yaml: some")
    message = str(raised.value)
    assert message.startswith("params.yaml: some.count is ")
    assert message.endswith("valid integer")
    assert len(message) < 4_100
