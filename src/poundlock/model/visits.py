"""How often a run entered its stages since its last pause or delay, as stored in its head.

Most runs visit their stages in order, and then the counts follow from the current stage: nothing has to be written. So
the text is

- None while the run has advanced in order from its first stage,
- a JSON text with a stage's id while it has advanced in order from there, after a pause or delay before it,
- a JSON object of counts after a jump.

After it was set it is never None again, so None in a move means that there is nothing to write.
"""

from __future__ import annotations

from collections.abc import Sequence

from poundlock.codecs import load


def read_visits(text: str | None, stages: Sequence[str], stage: str | None) -> dict[str, int]:
    """Return how often each stage was entered.

    Args:
        text: `visits` of the run's head.
        stages: ids of the pipeline's stages, in order.
        stage: the stage the run enters next; None after the last one.
    """
    since = stages[0] if text is None else load(text)
    if isinstance(since, dict):
        return since
    if since not in stages or (stage is not None and stage not in stages):
        return {}  # the workflow has changed: the earlier visits are unknown
    end = len(stages) if stage is None else stages.index(stage)
    return dict.fromkeys(stages[stages.index(since) : end], 1)
