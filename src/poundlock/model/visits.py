"""How often a run entered its stages since its last pause or delay, as its head holds it.

Most runs go straight on, and then the counts follow from where they are: they cost nothing to write. So the text is

- None while the run went straight on from its first stage,
- a JSON text with a stage's id while it went straight on from there, because it paused or was delayed before it,
- a JSON object of counts once it has jumped.

Once it is not None it never is again, so None in a move means that there is nothing to write.
"""

from __future__ import annotations

from collections.abc import Sequence

from poundlock.codecs import load


def read_visits(text: str | None, stages: Sequence[str], stage: str | None) -> dict[str, int]:
    """Return how often each stage was entered.

    Args:
        text: what the run's head holds.
        stages: ids of the pipeline's stages, in order.
        stage: the stage the run enters next; None behind the last one.
    """
    since = stages[0] if text is None else load(text)
    if isinstance(since, dict):
        return since
    if since not in stages or (stage is not None and stage not in stages):
        return {}  # the workflow has changed: nothing is known of the way to here
    end = len(stages) if stage is None else stages.index(stage)
    return dict.fromkeys(stages[stages.index(since) : end], 1)
