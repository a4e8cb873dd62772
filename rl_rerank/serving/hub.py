"""Uploading a folder to the Hugging Face hub: one commit, read back and compared.

The upload skips contents that the hub already has (LFS: whole files; Xet: chunks), so the same call resumes after an
interruption. Nothing is visible in the repository before the commit.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import HfApi, get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

# The hub client's transport: httpx or httpx2, by its version.
from huggingface_hub.errors import HTTPError as TransportError  # pyright: ignore[reportPrivateImportUsage]
from huggingface_hub.utils import validate_repo_id

from rl_rerank import __version__
from rl_rerank.config import HubConfig

logger = logging.getLogger(__name__)

OURS = ".gitattributes"
"""File that the hub writes into every new repository."""

LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token that may write"


def check(repo: str, settings: HubConfig) -> None:
    """Refuse an upload that is sure to fail, without a request to the hub.

    Raises:
        ValueError: for a name that is not user/name, an invalid branch name as the revision, HF_HUB_OFFLINE, or a
            missing login.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as e:
        raise ValueError(f"push={repo!r} is no repository's name: {e}") from None
    if repo.count("/") != 1:
        raise ValueError(f"push={repo!r} must be user/name or organisation/name")
    branch = settings.revision
    if branch is not None and (not re.fullmatch(r"\w[\w./-]*", branch, re.ASCII) or ".." in branch):
        raise ValueError(
            f"hub.revision={branch!r} is no branch's name; use letters, digits, '_', '-', '.' and '/', such as step-40"
        )
    if is_offline_mode():
        raise ValueError(f"push={repo}: HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it")
    if get_token() is None:
        raise ValueError(f"push={repo}: nobody is logged in to the hub; {LOG_IN}")


def upload(folder: Path, repo: str, kind: str, settings: HubConfig) -> None:
    """Set the repository's branch to exactly the files of `folder`; earlier files stay in its history.

    An existing repository keeps its visibility.

    Args:
        kind: model or dataset.

    Raises:
        LookupError: if the hub refuses or cannot be reached.
        ValueError: if its content differs from the upload afterwards.
    """
    api = HfApi(token=True, library_name="rl-rerank", library_version=__version__)
    with _told(repo):
        address = str(api.create_repo(repo, repo_type=kind, private=settings.private, exist_ok=True))
        if settings.revision is not None:
            api.create_branch(repo, branch=settings.revision, repo_type=kind, exist_ok=True)
            address += f"/tree/{quote(settings.revision, safe='')}"
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            repo_type=kind,
            revision=settings.revision,
            commit_message=f"Upload with rl-rerank {__version__}",
            delete_patterns="*",
        )
        is_private = api.repo_info(repo, repo_type=kind).private
        found = api.verify_repo_checksums(repo, repo_type=kind, revision=commit.oid, local_dir=folder)
    wrong = {mismatch["path"] for mismatch in found.mismatches}
    wrong |= {path for path in (*found.missing_paths, *found.extra_paths) if path != OURS}
    if wrong:
        raise ValueError(
            f"push={repo}: commit {commit.oid} does not hold what was sent from {str(folder)!r}; these files differ, "
            f"are missing or are too many: {', '.join(sorted(wrong))}"
        )
    logger.info(
        "%s: %d files of %s are there, commit %s (%s repository)",
        *(address, found.checked_count, folder, commit.oid, "private" if is_private else "public"),
    )


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Turn the hub client's errors into sentences without storage URLs, which carry a signature."""
    try:
        yield
    except HfHubHTTPError as e:
        raise LookupError(f"push={repo}: {_refusal(e)}") from e
    except (TransportError, ConnectionError) as e:
        raise LookupError(f"push={repo}: the hub cannot be reached ({e}); the same command goes on from here") from e
    except RuntimeError as e:  # What the client raises where the transfer of a file fails, with the reason as cause.
        cause = e.__cause__
        reason = _status(cause) if isinstance(cause, HfHubHTTPError) else str(cause or "")
        raise LookupError(f"push={repo}: {_line(f'{e} {reason}')}; the same command goes on from here") from None
    except ValueError as e:
        raise ValueError(f"push={repo}: {_line(str(e))}") from e


def _refusal(error: HfHubHTTPError) -> str:
    reasons = {401: f"it does not accept the token; {LOG_IN}", 403: f"the token may not write there; {LOG_IN}"}
    said = f" ({_line(error.server_message)})" if error.server_message else ""
    reason = reasons.get(error.response.status_code)
    return f"the hub answers {_status(error)}{said}" + (f": {reason}" if reason else "")


def _status(error: HfHubHTTPError) -> str:
    return f"{error.response.status_code} {error.response.reason_phrase}"


def _line(text: str) -> str:
    return " ".join(text.split())
