"""The systems of docs/systems.md: what cannot be read from a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A number that its authors report of weights that they have published."""

    measure: str
    value: float
    queries: int
    of: str
    """Its data, candidates and model."""


@dataclass(frozen=True)
class System:
    name: str
    """Of its experiment."""
    title: str
    claim: str
    """What its paper says, with its number."""
    stages: Sequence[str]
    """The rows of its evaluation that the page shows, beside the first stage."""
    variants: str
    open: str
    """What nobody could verify on two cores without its models and data."""
    learns: str = ""
    """The row of its trained model, which has to beat those of the untrained one and of a permuted twin; empty: it
    trains nothing."""
    published: Published | None = None


SYSTEMS = (
    System(
        "reasonrank",
        "ReasonRank",
        "A listwise reranker that reasons over sliding windows of 20, trained by SFT and then by GRPO with a reward "
        "that combines several views of an order: 35.7 nDCG@10 on BRIGHT with 7B, 38.0 with 32B",
        ("untrained", "sft_eval", "grpo_eval"),
        "`reasonrank_32b`: adapters in both stages, rates of the 32B model",
        "its teacher's reasoning, its 13.5k queries, the gain of reasoning; whether its overlap is rank-biased (paper) "
        "or average (code)",
        learns="grpo_eval",
        published=Published("nDCG@10", 0.3574, 1384, "BRIGHT, first 100 of ReasonIR-8B, 7B"),
    ),
    System(
        "grouprank",
        "GroupRank",
        "One answer scores a random group of documents, as flexible as pointwise reranking and as aware of other "
        "documents as listwise reranking: 34.3 nDCG@10 on BRIGHT with 7B",
        ("untrained", "sft_eval", "grpo_eval", "fused"),
        "none",
        "its two teachers, its 13.6k queries, and every detail of training, whose code was never released",
        learns="grpo_eval",
        published=Published("nDCG@10", 0.343, 1384, "BRIGHT, first 100 of DIVER-Retriever-4B, 7B"),
    ),
    System(
        "rank_r1",
        "Rank-R1",
        "GRPO alone, rewarded for naming the most relevant document of a set, teaches a setwise reranker to reason: "
        ".727 nDCG@10 on TREC DL 2019 with 7B",
        ("untrained", "sft_eval", "grpo_eval"),
        "`rank_r1_v02`: prompts of 2 to 10 documents, groups of 16, Qwen3-32B",
        "learning without a cold start: a model of 135M parameters never writes the tags, so no completion would be "
        "rewarded, and GRPO starts from SFT here",
        learns="grpo_eval",
        published=Published("nDCG@10", 0.727, 43, "TREC DL 2019, first 100 of BM25, 7B"),
    ),
    System(
        "erank",
        "ERank",
        "A pointwise reranker that reasons and answers with a grade, trained on the ranks of a query's documents by "
        "these grades: 38.7 nDCG@10 on BRIGHT with 4B, fused with BM25",
        ("untrained", "sft_eval", "grpo_eval", "fused"),
        "none",
        "its teacher, its 20,000 queries, the constants of its reward, which are reconstructed",
        learns="grpo_eval",
        published=Published("nDCG@10", 0.227, 1384, "BRIGHT, first 100 of BM25, 4B"),
    ),
    System(
        "prorank",
        "ProRank",
        "Reinforcement learning teaches a small model two answers; their logits are then trained into a fine-grained "
        "score: 0.5B beats a fine-tuned 32B reranker on BEIR",
        ("untrained", "warmup_eval", "permuted_eval", "scores_eval"),
        "none",
        "its data, rates and losses, none of which the paper gives",
        learns="warmup_eval",
    ),
    System(
        "rankify",
        "Rankify",
        "One file format for retrieved passages, reranked passages and answers, with Top@k by the passages that hold "
        "an answer; 24 methods of reranking over 1,000 passages a question",
        ("untrained", "fused"),
        "none",
        "its retrievers, its generation and its pre-retrieved files, which are downloads",
    ),
    System(
        "screening",
        "Screening prioritisation",
        "A cross-encoder trained on the records of other reviews ranks all records of a review for its screeners "
        "better than earlier methods, where rankers without training do not beat BM25",
        ("untrained", "sft_eval", "fused"),
        "`data.fields=title` or `text`; `data.fold` for the other topics",
        "its BERT models and the abstracts of CLEF TAR, which are not published with its judgments",
        learns="sft_eval",
    ),
    System(
        "prp",
        "Pairwise ranking prompting",
        "A 20B model that compares two documents at a time, in both orders, ranks as well as the largest from lists, "
        "whatever the initial order: .7242 nDCG@10 on TREC DL 2019 with all pairs, .7240 from the reversed order",
        ("untrained", "allpairs", "soft", "sliding", "student"),
        "all pairs, heapsort, sliding passes; hard and soft decisions; a pointwise student of the preferences",
        "its models, encoder-decoders of 3B and more; a model of 135M parameters answers by position, so that most "
        "comparisons are ties",
        learns="student",
    ),
    System(
        "first",
        "FIRST",
        "The first identifier's logits alone order a window, if a ranking loss on them is trained beside the language "
        "model's: 54.3 nDCG@10 on BEIR with 7B, and an answer costs no decoding",
        ("untrained", "joint_eval", "rank_only_eval", "lm_only_eval", "feedback"),
        "twins with one of the two losses",
        "its teacher, its 40,000 windows, the gain in time, Contriever's vectors",
        learns="joint_eval",
    ),
    System(
        "fullrank",
        "FullRank",
        "A model that learned from orders of whole lists ranks 100 documents in one prompt better than in sliding "
        "windows, and for half the tokens: .7255 nDCG@10 on TREC DL 2019 with 7B, .7034 in windows",
        ("untrained", "full_eval", "plain_eval", "windowed_eval", "top_eval"),
        "twins without weights of places and with windows; decoding of the first places alone",
        "its teacher, its 1,000 queries, the gain in time, lists of 100 documents",
        learns="full_eval",
    ),
    System(
        "curricula",
        "Training curricula",
        "Pairs that the first stage has right weigh more at first, which is worth up to 4% of MRR and 9% of P@1 to a "
        "BERT ranker; hard pairs first is the control",
        ("untrained", "none_eval", "reciprank_eval", "normscore_eval", "kdescore_eval", "anti_eval", "documents_eval"),
        "five seeds, by the loop in its file",
        "its BERT and ConvKNRM models, its three collections, early stopping by MRR",
        learns="reciprank_eval",
    ),
    System(
        "losses",
        "A Deep Look",
        "A survey: listwise losses rank at least as well as pairwise ones, these better than pointwise ones, whose "
        "scores are the best calibrated; BM25 as the only teacher can be surpassed by its student",
        ("untrained", *(f"{loss}_eval" for loss in ("bce", "ranknet", "softmax", "margin_mse"))),
        "three seeds, by the loop in its file",
        "the architectures that it compares, and its collections",
        learns="softmax_eval",
    ),
    System(
        "multistage",
        "BERT and beyond",
        "A survey whose pipeline scores BM25's documents one by one with an encoder (mono) and compares the best of "
        "them pairwise (duo): MRR@10 on MS MARCO rises from .187 to .38 and .39 with T5 base",
        ("untrained", "mono_eval", "duo_eval", "duo_sum", "one_order"),
        "`aggregation` of its paradigms",
        "its encoders and MS MARCO; mono and duo start from MiniLM here",
        learns="mono_eval",
    ),
    System(
        "ranklist",
        "RankList",
        "RankNet over lists: pairs of neighbours and of distant documents, a log-sum-exp of their losses, and skips "
        "that grow during training agree better with ordinal labels than pairs alone do",
        ("untrained", "neighbours_eval", "skips_eval", "growing_eval", "smooth_eval", "all_pairs_eval"),
        "five seeds, by the loop in its file",
        "its formulas, its data (speech and pictures) and its numbers; MiniLM's order takes the place of ordinal "
        "labels",
        learns="growing_eval",
    ),
    System(
        "recgaze",
        "RecGaze",
        "Gaze, cursor and clicks of 87 people on 40 screens of carousels: what is examined depends on row and column, "
        "so that a click, and no click, mean different things at different places",
        ("untrained", "naive_eval", "clicks_ips_eval", "looks_eval", "looks_ips_eval", "full_eval"),
        "none",
        "its tables, which are a download; that examination depends on the place alone, which later work contradicts",
        learns="looks_ips_eval",
    ),
    System(
        "baidu",
        "Baidu Search",
        "Clicks calibrated by a few judgments pre-train a model, judgments anchor its scores, documents are summaries "
        "for the query, and a pyramid that encodes query and summary apart in its lower layers serves it",
        ("untrained", "pretrained_eval", "anchored_eval", "plain_eval", "head_eval", "pyramid_eval"),
        "none",
        "its logs, its encoders and its numbers; the paper's constants, which are from an account of it",
        learns="anchored_eval",
    ),
)
