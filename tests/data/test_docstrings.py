"""Docstrings taken apart."""

import pytest

from rl_rerank.data.sources.docstrings import parse, plain, without_names

TEXT = """\
svdvals(a, check=True)

Compute the singular
values of a matrix.

Uses :func:`svd` [1]_ inside.

.. versionadded:: 1.2.0

Parameters
----------
a : (M, N) array_like
    Matrix to decompose.

Returns
-------
s : (min(M, N),) ndarray

See Also
--------
svd : Compute the full decomposition,
    which this does not.
diagsvd, `scipy.linalg.orth`
:func:`numpy.linalg.norm`
    Norms.
Note that this sentence names nothing

Examples
--------
>>> np.random.rand()
0.123 # may vary
>>> 1 + 1
2

Notes
-----
Fast for ``small`` :math:`a`.
"""


def test_the_summary_is_the_first_paragraph_after_the_signature():
    assert parse(TEXT).summary == "Compute the singular values of a matrix."


def test_the_body_starts_with_description_and_notes_and_ends_with_examples():
    assert parse(TEXT).body == (
        "Uses svd inside. Returns: s : (min(M, N),) ndarray Notes: Fast for small a. "
        "Parameters: a : (M, N) array_like Matrix to decompose. Examples: >>> np.random.rand() >>> 1 + 1 2"
    )


def test_see_also_gives_names_and_no_descriptions():
    assert parse(TEXT).see_also == ("svd", "diagsvd", "scipy.linalg.orth", "numpy.linalg.norm")


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("add(x1, x2, /, out=None)\n\nAdd arguments.\nNow.\n\nMore.", "Add arguments. Now."),
        ("array(object,\n      dtype=None)\n\nCreate an array.", "Create an array."),
        ("f(x)\nCompute something (fast).\n\nMore.", "Compute something (fast)."),
        ("a.f(x) -> int\n\na.g(x)\n\nCompute something.", "Compute something."),
        ("Return (a,b)-cosh pseudo-derivative (of x)\n\nMore.", "Return (a,b)-cosh pseudo-derivative (of x)"),
        ("Summary.\nParameters\n----------\nx : int", "Summary."),
        ("", ""),
    ],
)
def test_call_signatures_are_no_summary(text, summary):
    assert parse(text).summary == summary


def test_marks_of_restructured_text_are_removed():
    text = "See :py:meth:`~numpy.ndarray.sort`, ``x``, :math:`a^2` [2]_:\n\n.. math::\n\n    y = x\n\n::\n\n    code"
    assert plain(text) == "See numpy.ndarray.sort, x, a^2 : y = x code"


def test_a_table_of_supported_backends_is_boilerplate():
    text = "Sum it.\n\nNotes\n-----\nA.\n\n**Array API Standard Support**\n\n`f` has\n\n=== ===\nx   y\n=== ===\n\n" + (
        "    See :ref:`dev-arrayapi` for more information.\n\nB."
    )
    assert parse(text).body == "Notes: A. B."


def test_sets_that_are_printed_in_hash_order_do_not_get_into_the_text():
    first = parse("Sum.\n\nUse of argument(s) ``{'b', 'a'}`` by position is deprecated.")
    assert first == parse("Sum.\n\nUse of argument(s) ``{'a', 'b'}`` by position is deprecated.")


def test_own_names_are_removed_whole_with_the_module_before_them():
    text = "np.linalg.svd(a) and svd, svdvals, svd_flip, my.svd and SVD differ from svd."
    assert without_names(text, ["svd"]) == "(a) and , svdvals, svd_flip, and SVD differ from ."
    assert without_names("max and amax", ["max", "amax"]) == "and"
