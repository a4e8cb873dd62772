"""What a policy on one forward is, computed without a trainer."""

from rl_rerank.packed.forward import plainly_scored


def labels(made, model, batch):
    """Logits and log-probabilities [M] of the batch's labels, sequence by sequence."""
    return plainly_scored(model, batch["packed"].sequences, pad_id=0, temperature=made.label_temperature)


def policy(made, model, batch):
    """The policy of an objective, one row per task."""
    return made.policy(labels(made, model, batch), batch)
