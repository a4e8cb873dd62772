"""How a model sees images: the size at which they are shown, their placeholders in texts, and their pixels.

All of it is the model's own processor's; nothing here knows a family of models.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import sqrt
from typing import TYPE_CHECKING, Any

from rl_rerank.prompts import images
from rl_rerank.types import ShownImage

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST = 8
"""Pixels of the shorter side, below which an image is not made smaller."""
STEP = 0.95
"""From one size that is tried to the next smaller one."""
KEPT = 64
"""Images whose pixels are kept at the size at which they are shown."""


def fitted(path: str, docid: str | None, cap: int | None, count: Callable[[int, int], int]) -> ShownImage:
    """The image at the largest size that takes at most `cap` tokens; None: at its own.

    Args:
        count: (width, height) in pixels -> tokens.

    Raises:
        ValueError: naming the file, if it cannot be opened, or takes more tokens at any size.
    """
    file = images.inspect(path)
    width, height = file.width, file.height
    tokens = fewest = count(width, height)
    scale = 1.0 if cap is None else sqrt(cap / tokens)
    while cap is not None and tokens > cap:
        smaller = (max(round(file.width * scale), 1), max(round(file.height * scale), 1))
        if min(smaller) < min(SMALLEST, file.width, file.height):
            raise ValueError(
                f"the image {path!r} takes at least {fewest} tokens, and {cap} are left for it; raise "
                "model.max_image_tokens or model.max_prompt_tokens, or show fewer documents in a prompt"
            )
        (width, height), scale = smaller, scale * STEP
        tokens = count(width, height)
        fewest = min(fewest, tokens)
    return ShownImage(path, docid, file.sha256, width, height, tokens)


def pixels(shown: ShownImage) -> "Image":
    """Decode an image at its shown size.

    Raises:
        ValueError: if the file is another one than when it was rendered.
    """
    if images.inspect(shown.path).sha256 != shown.sha256:
        raise ValueError(f"the image {shown.path!r} has changed since its prompt was made; start the command again")
    image, size = images.load(shown.path), (shown.width, shown.height)
    return image if image.size == size else image.resize(size)


class Vision:
    """What a processor of transformers makes of images.

    Args:
        processor: with an image processor and an `image_token`.
        max_image_tokens: the most tokens that one image may take; None: as many as the processor makes of it.

    Attributes:
        image_token: the placeholder of one image in a text, and of each of its tokens in an expanded text.
        image_token_id: its id, which the model replaces with what it sees.
    """

    def __init__(self, processor: Any, *, max_image_tokens: int | None = None) -> None:
        self.processor = processor
        self.max_image_tokens = max_image_tokens
        self.image_token: str = processor.image_token
        self.image_token_id: int = processor.image_token_id
        self.shown: dict[int, ShownImage] = {}
        """`ShownImage.token_id` -> the image, for all that has been fitted."""
        self.replacement = lru_cache(4096)(self._replacement)
        self.pixels = lru_cache(KEPT)(pixels)

    def fitted(self, path: str, docid: str | None, cap: int | None) -> ShownImage:
        """The image as `fitted` shows it, with its tokens as the processor makes them."""
        found = fitted(path, docid, cap, self._count)
        self.shown[found.token_id] = found
        return found

    def expanded(self, text: str, shown: Sequence[ShownImage]) -> str:
        """The text with every placeholder replaced by the tokens of its image.

        Raises:
            ValueError: if it has more or fewer placeholders than images.
        """
        first, *behind = text.split(self.image_token)
        if len(behind) != len(shown):
            raise ValueError(
                f"the chat template shows {len(behind)} placeholders {self.image_token!r} for {len(shown)} images, so "
                "that it cannot be known which image stands where"
            )
        return first + "".join(self.replaced(image) + rest for image, rest in zip(shown, behind, strict=True))

    def replaced(self, shown: ShownImage) -> str:
        """What stands in an expanded text for an image."""
        return self.replacement(shown.width, shown.height)

    def marked(self, ids: Sequence[int], shown: Sequence[ShownImage]) -> tuple[int, ...]:
        """The ids of an expanded text, those of images' tokens replaced by `ShownImage.token_id`.

        Raises:
            ValueError: if there are more or fewer of them than the images have.
        """
        own = [image.token_id for image in shown for _ in range(image.tokens)]
        if (found := ids.count(self.image_token_id)) != len(own):
            raise ValueError(
                f"the tokenizer makes {found} tokens {self.image_token!r} of {len(shown)} images with {len(own)} of "
                "them; it does not belong to the model's processor"
            )
        each = iter(own)
        return tuple(next(each) if token == self.image_token_id else token for token in ids)

    def inputs(self, shown: Sequence[ShownImage]) -> dict[str, Any]:
        """What the model's forward takes beside ids, for images in the order in which their tokens stand in these."""
        found = self.processor.image_processor(images=[[self.pixels(one) for one in shown]], return_tensors="pt")
        return {name: found[name] for name in found if name in self.processor.image_processor.model_input_names}

    def _count(self, width: int, height: int) -> int:
        return self.replacement(width, height).count(self.image_token)

    def _replacement(self, width: int, height: int) -> str:
        """What stands in an expanded text for an image of this size; the processor says it of a blank one."""
        from PIL import Image

        blank = Image.new("RGB", (width, height), "white")
        made = self.processor(text=[self.image_token], images=[[blank]], return_text_replacement_offsets=True)
        [[replaced]] = made["text_replacement_offsets"]
        return replaced["replacement"]
