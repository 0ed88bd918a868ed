from __future__ import annotations

import string
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric, path_not_unique

from rfdetr_core.observers.runs import mlflow_name

# Texts with many characters that MLflow refuses, beside any text.
KEYS = st.text(st.sampled_from("a.:/,;\n\\é2CF"), max_size=8) | st.text() | st.text(st.characters(), max_size=400)
ORDINARY = st.text(string.ascii_letters + string.digits + "äé木 -_./", min_size=1, max_size=250).filter(
    lambda key: not path_not_unique(key)
)


@given(KEYS)
def test_mlflow_takes_every_name_and_each_can_be_read_back(key: str) -> None:
    name = mlflow_name(key)
    _validate_metric(name, 0.5, 0, 0)
    if "::" not in name:  # a digest cannot be decoded
        assert unquote(name.replace(":", "%"), errors="surrogatepass") == (key or "%")
    else:
        assert len(name) == 250


@given(KEYS, KEYS)
def test_two_keys_never_have_the_same_name(key: str, other: str) -> None:
    assert (mlflow_name(key) == mlflow_name(other)) == (key == other)


def test_long_keys_that_differ_at_the_end_have_two_names() -> None:
    assert len({mlflow_name("w" * count + end) for count in (250, 251, 300) for end in ("", "x", "y")}) == 9


@given(ORDINARY)
def test_an_ordinary_name_is_left_as_it_is(key: str) -> None:
    assert mlflow_name(key) == key
