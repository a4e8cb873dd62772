"""Ranking measures as pure functions, used alike by rewards and tests."""

from rl_rerank.metrics.agreement import average_overlap, by_place, kendall_tau, pairwise_agreement, rbo
from rl_rerank.metrics.distributions import js, kl, normalised, softmax
from rl_rerank.metrics.relevance import (
    average_precision,
    dcg,
    ndcg,
    recall,
    reciprocal_power,
    reciprocal_rank,
)
from rl_rerank.metrics.ties import tied_groups
from rl_rerank.metrics.total_recall import norm_area, wss
