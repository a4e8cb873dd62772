"""Whether the model's tokenizer and chat template fit the experiment, known before any stage has started."""

from collections.abc import Iterable
from pathlib import Path

from rl_rerank import requirements
from rl_rerank.experiment.experiment import Experiment, ResolvedStage
from rl_rerank.paradigms.base import check_template, members
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.stages.plugins import Plugins
from rl_rerank.training.loop.lengths import local_tokenizer


def check(experiment: Experiment, names: Iterable[str]) -> None:
    """Refuse stages whose answers would not stand where they are read, if the model's tokenizer is on this machine.

    Raises:
        ValueError: naming the stage, the template, the paradigm and the settings that help; or for a tokenizer with
            more tokens than the model.
    """
    stages = [stage for name in names if _renders(stage := experiment.stages[name], experiment.plugins)]
    if not stages:
        return
    model = experiment.config.model
    try:
        tokenizer = local_tokenizer(model)
    except (ImportError, OSError):
        return
    requirements.load("rl_rerank.engines.local.tokenizer", "model.path").check_size(
        tokenizer, Path(model.path).expanduser()
    )
    renderer = Renderer(tokenizer, max_prompt_tokens=model.max_prompt_tokens, template_kwargs=model.template_kwargs)
    for stage in stages:
        for paradigm in (member for named in stage.paradigms.values() for member in members(named).values()):
            try:
                check_template(paradigm, renderer)
            except ValueError as e:
                raise ValueError(f"stages.{stage.name}: {e}") from None


def _renders(stage: ResolvedStage, plugins: Plugins) -> bool:
    """Whether the stage's prompts are rendered with the template of the experiment's model."""
    if stage.settings.is_launched:
        return True
    return (
        stage.settings.leaves != "examples"
        and stage.engine is not None
        and not plugins.engine(stage.engine).has_own_model
    )
