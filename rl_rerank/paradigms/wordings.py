"""The wording of a paradigm's prompts, and what its answers look like."""

from collections.abc import Mapping
from typing import Any

from rl_rerank.prompts.wordings.files import wording
from rl_rerank.prompts.wordings.wording import Wording


def words_of(paradigm: str, given: str | Mapping[str, Any] | None) -> Wording:
    """The wording that a paradigm is given; None: its own, which has its name.

    Raises:
        LookupError, ValueError: for one that does not exist, is not valid, or is another paradigm's.
    """
    found = wording(paradigm if given is None else given)
    if found.paradigm != paradigm:
        name = given if isinstance(given, str) else "given as a mapping"
        raise ValueError(
            f"wording {name}: it is for the paradigm {found.paradigm}, and paradigms.{paradigm}.params.wording names it"
        )
    return found


def following(paradigm: str, given: str | Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with those that the wording decides.

    Raises:
        ValueError: if one is given otherwise.
    """
    found = words_of(paradigm, given)
    for key, value in found.defaults.items():
        if key in params and str(params[key]) != str(value):
            name = given if isinstance(given, str) else "given as a mapping"
            raise ValueError(
                f"wording {name}: its answers have {key}={value!r}; got paradigms.{paradigm}.params.{key}="
                f"{params[key]!r}, which can be left out"
            )
    return {**found.defaults, **params}


def check_form(paradigm: str, words: Wording, *, constrained: bool) -> None:
    """Refuse constrained decoding for answers in another form than the paradigm's own."""
    if constrained and (words.answer.form == "array" or words.answer.fence):
        raise ValueError(
            f"{paradigm}: constrained=true restricts answers to the paradigm's own form, and those of this wording are "
            f"{words.answer.form}{' in a fence' if words.answer.fence else ''}; leave constrained out"
        )


def fenced(answer: str, fence: str) -> str:
    """An answer in a code fence of this language; as it is for none."""
    return f"\n```{fence}\n{answer}\n```\n" if fence else answer


def without_fence(answer: str, fence: str) -> str | None:
    """What stands in the fence that `fenced` writes; None where there is none."""
    if not fence:
        return answer
    opening, closing = f"```{fence}\n", "\n```"
    whole = answer.startswith(opening) and answer.endswith(closing) and len(answer) > len(opening) + len(closing)
    return answer[len(opening) : -len(closing)] if whole else None
