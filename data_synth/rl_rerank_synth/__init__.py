"""The steps of data synthesis.

A step is a frozen dataclass, declared under the entry-point group `rl_rerank.step`, that makes a stream of examples of
another: `step(examples, context) -> iterator of examples`. `rl_rerank.synthesis.step` says what it may rely on.
"""
