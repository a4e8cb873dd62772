"""Small images, and queries about them."""

from pathlib import Path

from PIL import Image

from rl_rerank.types import Candidate, RankingExample

COLOURS = ("red", "lime", "blue", "yellow", "white", "purple")


def page(path: Path, colour: str, size: tuple[int, int] = (60, 40)) -> str:
    """Write an image of one colour with a black corner, so that its sides can be told apart."""
    image = Image.new("RGB", size, colour)
    image.paste("black", (0, 0, size[0] // 4, size[1] // 4))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return str(path)


def example(folder: Path, number: int = 0, documents: int = 4, text: str = "") -> RankingExample:
    """A query whose documents are images; the first is relevant."""
    candidates = tuple(
        Candidate(f"q{number}d{i}", text, images=(page(folder / f"{number}-{i}.png", COLOURS[(number + i) % 6]),))
        for i in range(documents)
    )
    return RankingExample(f"q{number}", f"which page is {COLOURS[number % 6]}?", candidates, {f"q{number}d0": 1})
