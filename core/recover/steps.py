"""Every training step of a plan by its name: what does it, and what is noted of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from core.methods.base import TrainingMethod
from core.recover.distill import distill
from core.recover.finetune import finetune
from core.recover.l1 import train_l1
from core.recover.qat import qat
from core.recover.trainer import Fitted

TRAININGS: Mapping[str, Callable[..., Fitted]] = {
    "recover/distill": distill, "recover/finetune": finetune, "train/l1": train_l1, "train/qat": qat,
}  # fmt: skip


def train(work: Any, method: TrainingMethod) -> None:
    """Train the encoder of `work` (cuts.Work) in place; its facts hold the curve, its notes what was said."""
    name = method.card.name
    done = TRAININGS[name](work.encoder, work.dense, work.texts, method, work.progress)
    work.facts.setdefault("training", []).append({"step": name, **done.as_json()})
    work.notes += done.notes
    work.trained += [done.checkpoint] if done.checkpoint else []
