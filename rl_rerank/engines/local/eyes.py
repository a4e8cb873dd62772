"""Pixels for a model that sees, passed wherever the ids of its input name images, and nowhere else.

Prompts hold one id below 0 for all tokens of an image (`ShownImage.token_id`). Whatever computes them, such as a
prefill, a packed row or a trainer, sees ids only: equal ids are equal images. Right before the model embeds a row, this
module puts the placeholder's id back and adds the pixels, each image once for each place in the row.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from rl_rerank.prompts.vision import Vision
from rl_rerank.types import ShownImage

ATTRIBUTE = "rl_rerank_eyes"


def install(model: Any, vision: Vision | None) -> None:
    """Let a transformers model, or the one inside of a PEFT model, compute ids of images that `vision` has rendered.

    A second call adds to the images that are known. None changes nothing.
    """
    if vision is None:
        return
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner: nn.Module = base.base_model
    if (eyes := getattr(inner, ATTRIBUTE, None)) is None:
        eyes = _Eyes()
        # The inner module, because adapters call the outer one's forward without its hooks.
        inner.register_forward_pre_hook(eyes, with_kwargs=True)
        setattr(inner, ATTRIBUTE, eyes)
    if vision not in eyes.visions:
        eyes.visions.append(vision)


class _Eyes:
    """Forward pre-hook of a model's backbone."""

    def __init__(self) -> None:
        self.visions: list[Vision] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ids = kwargs.get("input_ids")
        if ids is None or not bool((ids < 0).any()):
            return None
        vision = self.visions[-1]
        shown = self._occurrences(ids[ids < 0].tolist())
        own: dict[str, Any] = {name: self._placed(value, module) for name, value in vision.inputs(shown).items()}
        if "mm_encoder_outputs" in kwargs:
            own["mm_encoder_outputs"] = None  # generate() passes an empty one, beside which no pixels are taken
        return args, {**kwargs, **own, "input_ids": ids.masked_fill(ids < 0, vision.image_token_id)}

    def _placed(self, value: Tensor, module: nn.Module) -> Tensor:
        weight = next(module.parameters())
        return value.to(weight.device, weight.dtype if value.is_floating_point() else None)

    def _occurrences(self, ids: Sequence[int]) -> list[ShownImage]:
        """List the images whose tokens these are, in their order."""
        found: list[ShownImage] = []
        for token, run in groupby(ids):
            image = next((v.shown[token] for v in self.visions if token in v.shown), None)
            if image is None:
                raise LookupError("the input has the tokens of an image that was not rendered in this process")
            times, left = divmod(len(list(run)), image.tokens)
            if left:
                raise ValueError(
                    f"the image {image.path!r} has {image.tokens} tokens, and {times * image.tokens + left} stand in "
                    "the input"
                )
            found += [image] * times
        return found
