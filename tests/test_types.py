"""The examples in the records' documentation are such records."""

import dataclasses
import inspect
import re

import pytest

from rl_rerank import types

RECORDS = [record for record in vars(types).values() if dataclasses.is_dataclass(record)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_record_has_an_example_that_is_one(record):
    found = re.search(r"Example: `(.*)`", inspect.getdoc(record))
    assert found is not None
    assert isinstance(eval(found[1], vars(types)), record)
