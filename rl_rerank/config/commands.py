"""Commands that read files and need no experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(kw_only=True)
class EvaluateFiles:
    """`rl-rerank evaluate run=RUN qrels=QRELS`: measure one run file, or with `runs=[A,B]` several, and test them."""

    qrels: str
    """TREC's four columns, or BEIR's or MS MARCO's three, divided by tabs."""
    run: str = ""
    runs: list[str] = field(default_factory=list)
    """Run files, each of which is tested against the first on the first measure."""
    measures: list[str] = field(default_factory=lambda: ["nDCG@10"])
    ties: Literal["docid", "file"] = "docid"
    """Order of documents with equal scores: as trec_eval has it, the larger docid first; or as they stand in the run
    file, as CLEF TAR's tool has it."""
    output: str | None = None
    """Path of the JSON output; null prints it."""

    def __post_init__(self) -> None:
        if not self.run and not self.runs:
            raise ValueError(
                "run is required; give run=FILE, or 'runs=[FILE,FILE]' to test run files against each other"
            )
        if self.run and self.runs:
            raise ValueError(f"give run=FILE or 'runs=[FILE,FILE]'; got both, {self.run!r} and {self.runs}")
        if len(self.runs) == 1:
            raise ValueError(f"runs names at least two run files; got {self.runs}; give run={self.runs[0]} for one")
        paths = [str(Path(run)) for run in self.runs]
        if repeated := sorted({path for path in paths if paths.count(path) > 1}):
            raise ValueError(f"runs names {repeated[0]!r} twice; nothing is tested against itself")


@dataclass(kw_only=True)
class ReportRuns:
    """`rl-rerank report run_dirs=[A,B]`: one page over several finished runs."""

    run_dirs: list[str]
    """Run folders; the others are compared with the first."""
    output: str = "comparison"
    """Output folder of index.html, table.md and the plots."""
    title: str = ""
    force: bool = False
    """Also compare runs with different protocols, with a note on the page."""
    seed: int = 1
    """Seed of the tests and intervals."""

    def __post_init__(self) -> None:
        if len(self.run_dirs) < 2:
            raise ValueError(f"run_dirs names at least two run folders, such as 'run_dirs=[a,b]'; got {self.run_dirs}")
        folders = [str(Path(folder)) for folder in self.run_dirs]
        if repeated := sorted({folder for folder in folders if folders.count(folder) > 1}):
            raise ValueError(f"run_dirs names {repeated[0]!r} twice")


@dataclass(kw_only=True)
class ConvertFiles:
    """`rl-rerank convert input=FILE output=FILE format=FORMAT`: convert ranking examples to another format."""

    input: str
    """A file in RankLLM's, Rankify's or our format (jsonl), or the folder `data` of a run."""
    output: str
    """Output file, ending in .json or .jsonl."""
    format: Literal["rankllm", "rankify", "jsonl"]
    run: str | None = None
    """A TREC run file over the input's candidates, which gives the order and scores to write."""
    split: str = "test"
    """Split to write, if the input is a folder."""

    def __post_init__(self) -> None:
        if not self.output.endswith((".json", ".jsonl")) or (self.format == "jsonl" and self.output.endswith(".json")):
            wanted = ".jsonl" if self.format == "jsonl" else ".json or .jsonl"
            raise ValueError(f"output must end in {wanted}; got {self.output!r}")


@dataclass(kw_only=True)
class VerifyModel:
    """`rl-rerank verify model=DIR`: compare an exported folder with its contract."""

    model: str
    """A folder that the export stage wrote."""
    targets: list[str] = field(default_factory=list)
    """hf, vllm, cross_encoder, seqcls, and by a server that is started for it: server, vllm_score,
    vllm_generative_scoring; or the address of a running one. Empty: hf, cross_encoder and seqcls, as far as the folder
    claims them and they are installed."""
    trust_remote_code: bool = False
    """Run the model's own code. Enable only if you trust its author."""


def file_arguments(
    command: str, arguments: Sequence[str], names: Sequence[str], *, required: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Split arguments into the values of `NAME=FILE`, with any characters, and the rest.

    Raises:
        ValueError: if a required value is missing.
    """
    files = {key: value for key, _, value in (a.partition("=") for a in arguments) if key in names and value}
    for key in required:
        if key not in files:
            raise ValueError(f"{command}: {key} is required; give {key}=FILE.jsonl")
    return files, [a for a in arguments if a.partition("=")[0] not in names]
