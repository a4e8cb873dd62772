"""The data-synthesis steps.

A step is a frozen dataclass, declared under the entry-point group `rl_rerank.step` and called once a paradigm:

    step(examples, paradigm_name, paradigm, count, context) -> iterator of rows

`context` is a `rl_rerank.stages.synth.StepContext`. A row is `{qid, paradigm, docids, target, teacher}` with docids in
prompt order. The stage takes the first `count` rows and writes them.
"""
