"""What a kind of training stage is: settings that know what they start from, how they run and what they leave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from sfmobile.train.config import LoopConfig
from sfmobile.train.loop import Observer, Training, TrainingLoop
from sfmobile.train.record import WEIGHTS
from sfmobile.train.run import Run

if TYPE_CHECKING:
    from sfmobile.train.pictures import Pictures

# (done, total) of a long loop that isn't training.
Count = Callable[[int, int], None]


@dataclass(frozen=True)
class Workplace:
    """What a stage works with: the run it belongs to, and what its plan has for all of its stages.

    pictures: the training pictures by the name of their settings file; perceptual: the perceptual loss;
    token_embedding: what a new text encoder's token embedding starts from, None for random values.
    """

    run: Run
    pictures: Callable[[str], Pictures]
    perceptual: Callable[[], nn.Module]
    token_embedding: Callable[[], Tensor | None]
    observer: Observer | None = None
    count: Count | None = None

    def train(self, name: str, training: Training, loop: LoopConfig) -> dict[str, Tensor]:
        """Train in the stage's directory, from its last checkpoint on; the averaged weights of what was trained."""
        directory = self.run.root / name
        return TrainingLoop(training, loop, directory, self.observer, cpu=self.run.cpu).run()


class StageConfig(ABC):
    """A kind of stage: a subclass is a frozen dataclass whose fields are the settings of one stage.

    kind: as plans name it; result: the file in the stage's directory that says it is done.
    """

    kinds: ClassVar[dict[str, type[StageConfig]]] = {}
    kind: ClassVar[str]
    result: ClassVar[str] = WEIGHTS

    def __init_subclass__(cls, kind: str, **others: Any) -> None:
        super().__init_subclass__(**others)
        cls.kind = kind
        StageConfig.kinds[kind] = cls

    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """The stages that it starts from."""

    @abstractmethod
    def run(self, name: str, place: Workplace) -> None:
        """Run to the end, from the last checkpoint if there is one, and leave `result` with a record."""
