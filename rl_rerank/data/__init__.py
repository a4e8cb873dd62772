"""Collections as ranking examples, kept in a store that is built once."""

from rl_rerank.data.prepare import prepare
from rl_rerank.data.store import Store
