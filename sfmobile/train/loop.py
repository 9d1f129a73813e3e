"""One resumable training loop for every stage: CPU, one GPU or several through accelerate."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sfmobile.errors import ArtifactError, SfmobileError, UnavailableError, UsageError
from sfmobile.files import StrictModel, parse_json, read_json, validated
from sfmobile.train.config import LoopConfig
from sfmobile.train.ema import ExponentialMovingAverage
from sfmobile.train.state import load_optimizer, load_tensors, optimizer_tensors, save_tensors

if TYPE_CHECKING:
    from accelerate import Accelerator

Inputs = tuple[object, ...]
STATE = "state.safetensors"
# What versions before kept beside it.
OLD_RECORD = "state.json"


class Training(Protocol):
    """What a stage gives the loop: an objective whose `forward` returns named losses ("loss" is minimised), and the
    inputs of micro step `index` (unique over processes and accumulation), drawn from counter-based randomness."""

    name: str
    objective: nn.Module

    def inputs(self, index: int, batch_size: int, device: torch.device) -> Inputs:
        """Arguments of `objective.forward` for micro step `index`."""
        ...


class StateRecord(StrictModel):
    """How far a checkpoint is and by which settings: in the metadata of its weights, so that neither is ever of another
    step than the other."""

    step: int
    config: dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """What the loop tells its observer: finished step of `steps`, smoothed figures, images per second."""

    step: int
    steps: int
    figures: dict[str, float]
    images_per_second: float


Observer = Callable[[Progress], None]


class DivergedError(SfmobileError):
    """A loss became NaN or infinite; the last good checkpoint is kept."""

    exit_code = 1


def learning_rate(config: LoopConfig, step: int) -> float:
    """Factor on the base rate at `step`: linear warm-up, constant, linear fall over the last part."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    decay_steps = max(1, round(config.steps * config.decay_fraction))
    return warm * min(1.0, (config.steps - step) / decay_steps)


class TrainingLoop:
    """Runs a training from its last checkpoint to its last step.

    Files in `directory`: state.safetensors (weights, moments, average and, in its metadata, the step), log.jsonl.
    """

    def __init__(
        self,
        training: Training,
        config: LoopConfig,
        directory: Path,
        observer: Observer | None = None,
        cpu: bool = False,
    ) -> None:
        try:
            from accelerate import Accelerator
            from accelerate.utils import DataLoaderConfiguration
        except ModuleNotFoundError as error:
            raise UnavailableError("Training needs the package accelerate; install sfmobile[train].") from error
        self.training = training
        self.config = config
        self.directory = directory
        self.observer = observer
        precision = config.precision
        self.accelerator: Accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=precision,
            gradient_accumulation_steps=config.gradient_accumulation,
            dataloader_config=DataLoaderConfiguration(),
        )
        device = self.accelerator.device
        objective = training.objective.to(device)
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            for parameter in objective.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.raw = objective
        self.names = [name for name, parameter in objective.named_parameters() if parameter.requires_grad]
        self.trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        self.optimizer = self._optimizer(objective, device)
        self.ema = ExponentialMovingAverage(objective, config.ema_decay) if config.ema_decay > 0 else None
        self.start = self._resume()
        if config.compile:
            # Compiled below accelerate's wrappers, so that the graph holds the objective and nothing else.
            objective.forward = torch.compile(objective.forward, dynamic=False)
        self.optimizer = self.accelerator.prepare(self.optimizer)
        self.objective = self.accelerator.prepare(objective)

    def _optimizer(self, objective: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """AdamW; embeddings, norms and biases aren't decayed (a decayed embedding forgets words it never sees)."""
        self.groups: list[list[str]] = [[], []]
        parameters: list[list[nn.Parameter]] = [[], []]
        for name, parameter in objective.named_parameters():
            if parameter.requires_grad:
                plain = parameter.ndim < 2 or "embedding.weight" in name
                self.groups[plain].append(name)
                parameters[plain].append(parameter)
        return torch.optim.AdamW(
            [
                {"params": parameters[0], "weight_decay": self.config.weight_decay},
                {"params": parameters[1], "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
            betas=(0.9, 0.99),
            fused=device.type == "cuda",
        )

    @property
    def _ordered_names(self) -> list[str]:
        return self.groups[0] + self.groups[1]

    def _resume(self) -> int:
        """Load the last checkpoint if there is one; returns the step to go on from."""
        path = self.directory / STATE
        if not path.exists():
            return 0
        tensors, metadata = load_tensors(path)
        state = _read_record(path, tensors, metadata)
        expected = asdict(self.config)
        # Only what changes the mathematics must agree; how often to log or save may change between runs.
        free = {"log_every", "checkpoint_every", "compile"}
        for key, value in state.config.items():
            if key not in free and expected.get(key) != value:
                raise UsageError(
                    f"{path}: this run began with {key}={value}, found {key}={expected.get(key)}; "
                    "use another directory or the old setting."
                )
        missing = [name for name in self.names if f"model/{name}" not in tensors]
        if missing:
            raise UsageError(f"{path}: this checkpoint belongs to another network ('{missing[0]}' is missing).")
        self.raw.load_state_dict(_below(tensors, "model/"), strict=False)
        load_optimizer(self.optimizer, self._ordered_names, _below(tensors, "optimizer/"))
        if self.ema is not None:
            self.ema.load_state_dict(_below(tensors, "ema/"))
        return state.step

    def _save(self, step: int) -> None:
        if not self.accelerator.is_main_process:
            return
        trained = {f"model/{n}": p for n, p in self.raw.named_parameters() if p.requires_grad}
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        moments = {f"optimizer/{k}": v for k, v in optimizer_tensors(optimizer, self._ordered_names).items()}
        average = {f"ema/{k}": v for k, v in self.ema.state_dict().items()} if self.ema is not None else {}
        record = StateRecord(step=step, config=asdict(self.config))
        save_tensors(self.directory / STATE, {**trained, **moments, **average}, {"state": record.model_dump_json()})
        (self.directory / OLD_RECORD).unlink(missing_ok=True)

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights of everything trained (the raw ones if the average is off)."""
        if self.ema is not None:
            return self.ema.state_dict()
        return {name: p.detach() for name, p in self.raw.named_parameters() if p.requires_grad}

    def run(self) -> dict[str, Tensor]:
        """Train to the last step; returns the averaged weights, the same in every process."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.objective.train()
        try:
            with _attention_kernel(self.accelerator.device):
                self._steps()
        except torch.cuda.OutOfMemoryError as error:
            raise UnavailableError(
                f"Stage '{self.training.name}' ran out of GPU memory at batch_size={self.config.batch_size}; lower "
                "batch_size and raise gradient_accumulation by the same factor."
            ) from error
        self.accelerator.wait_for_everyone()
        return self.weights()

    def _steps(self) -> None:
        log = None
        if self.accelerator.is_main_process:
            log = (self.directory / "log.jsonl").open("a", encoding="utf-8")
        window = _Window()
        done = self.start
        while done < self.config.steps:
            config = self.config
            for losses in self._step(done):
                window.add(losses)
            window.close_step(done)
            if self.ema is not None:
                self.ema.update(self.raw, done)
            done += 1
            saves = done % config.checkpoint_every == 0 or done == config.steps
            if saves or done % config.log_every == 0:
                self._report(done, window, log)
                window = _Window()
            if saves:
                self._save(done)
        if log is not None:
            log.close()

    def _step(self, step: int) -> Iterator[dict[str, Tensor]]:
        """One optimiser step; yields the losses of each micro step."""
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate(config, step)
        for micro in range(config.gradient_accumulation):
            counter = (step * config.gradient_accumulation + micro) * accelerator.num_processes
            inputs = self.training.inputs(counter + accelerator.process_index, config.batch_size, accelerator.device)
            with accelerator.accumulate(self.objective), accelerator.autocast():
                losses = self.objective(*inputs)
                accelerator.backward(losses["loss"])
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.trained, config.gradient_clip)
                    losses = {**losses, "gradient_norm": torch.as_tensor(norm)}
                self.optimizer.step()
                self.optimizer.zero_grad()
            yield losses

    def _report(self, done: int, window: _Window, log: IO[str] | None) -> None:
        """Log the window's means; `DivergedError` if a loss in it wasn't finite."""
        bad = window.first_bad_step()
        if bad is not None:
            raise DivergedError(
                f"Stage '{self.training.name}': the loss became NaN or infinite at step {bad}; the last good "
                f"checkpoint in {self.directory} is kept; lower learning_rate (now {self.config.learning_rate})."
            )
        images = window.micro_steps * self.config.batch_size * self.accelerator.num_processes
        progress = Progress(done, self.config.steps, window.means(), images / max(window.seconds(), 1e-9))
        if log is not None:
            # A gradient's norm may overflow once without harm; JSON has no infinity.
            figures = {name: value if math.isfinite(value) else None for name, value in progress.figures.items()}
            line = {"step": done, **figures, "images_per_second": progress.images_per_second}
            log.write(json.dumps(line) + "\n")
            log.flush()
        if self.observer is not None and self.accelerator.is_main_process:
            self.observer(progress)


def _read_record(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> StateRecord:
    """The record of the checkpoint at `path`, or of one that a version before wrote in two files.

    Those two could be of different steps, if a kill came between them; AdamW's own count of its steps tells.
    """
    what, mend = "a training state", "delete it to train the stage from its start"
    if "state" in metadata:
        where = f"'{path}'"
        return validated(StateRecord, parse_json(metadata["state"], where, what, mend), where, what, mend)
    old = path.with_name(OLD_RECORD)
    record = validated(StateRecord, read_json(old, what, mend), f"'{old}'", what, mend)
    for name, value in tensors.items():
        if name.startswith("optimizer/") and name.endswith(":step") and int(value) != record.step:
            raise ArtifactError(
                f"'{old}' is of step {record.step}, the weights beside it are of step {int(value)}: the run was killed "
                f"between the two; delete both to train the stage from its start."
            )
    return record


def _attention_kernel(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU attention as plain products: the backward pass of torch's fused kernel is slower at the lengths trained
    on here (a UNet step at 16x16 latents takes 1.2 times as long with it); elsewhere torch chooses."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class _Window:
    """Sums of the losses since the last report, kept on the device so that a step doesn't wait for the GPU."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.bad_step: Tensor | None = None
        self.micro_steps = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        self.micro_steps += 1
        for name, value in losses.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def close_step(self, step: int) -> None:
        """Remember the first step after which the running loss sum isn't finite (a NaN stays in a sum)."""
        loss = self.sums["loss"]
        if self.bad_step is None:
            self.bad_step = torch.full_like(loss, math.inf)
        first = ~torch.isfinite(loss) & torch.isinf(self.bad_step)
        self.bad_step = torch.where(first, torch.full_like(loss, step), self.bad_step)

    def first_bad_step(self) -> int | None:
        step = math.inf if self.bad_step is None else float(self.bad_step)
        return None if math.isinf(step) else int(step)

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}

    def seconds(self) -> float:
        return time.perf_counter() - self.started
