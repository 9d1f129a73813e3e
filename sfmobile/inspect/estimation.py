"""Will it fit, and how long does a picture take: size, memory and time on a device before anything is exported, of one
way to export or of several side by side, with what to choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sfmobile.bundle.choices import ATTENTION_FORMS, AttentionForm, Target
from sfmobile.bundle.directory import MANIFEST_FILE, Bundle
from sfmobile.errors import UsageError
from sfmobile.export.footprint import memory_limits
from sfmobile.inspect.estimate.cost import cost_model
from sfmobile.inspect.estimate.devices import device_table
from sfmobile.inspect.estimate.forecast import Content, Forecast, bundle_content, checkpoint_content
from sfmobile.inspect.estimate.phones import VERDICTS
from sfmobile.inspect.estimate.times import BUDGET_MS, device_time, error_label
from sfmobile.observer import Observer
from sfmobile.tables import Table, as_text, in_bytes, in_milliseconds, in_seconds

if TYPE_CHECKING:
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.checkpoint.source import Prediction
    from sfmobile.export.options import ExportOptions
    from sfmobile.inspect.estimate.devices import Device

# Of a comparison: what weights are stored in, and sizes as shares of the asked one's sides.
COMPARED_BITS: tuple[int | None, ...] = (None, 8, 6, 4)
COMPARED_SIDES = (0.75, 0.5)
# A form that is faster by less than this isn't worth a sentence.
WORTH = 1.02


@dataclass(frozen=True)
class Estimate:
    """What a checkpoint, a layout or a bundle takes of a device; every figure is an estimate.

    rows: the way that was asked for first, then those it is compared with. exported: whether it is a bundle's.
    """

    name: str
    device: Device
    budget_ms: float
    rows: tuple[Forecast, ...]
    exported: bool

    def verdict(self) -> list[str]:
        """What it is, its size, memory and time, and what to choose: a sentence or two each."""
        row, device = self.rows[0], self.device
        content = row.content
        title = (
            f"{self.name} on {device.name} ({_hardware(device)}), {'exported' if self.exported else 'not exported yet'}"
            f": {_bits(content)}, {content.attention}, latents {_by(content.latent_size)} ({_by(content.pixels)} px), "
            f"{content.target}. All figures are estimates."
        )
        parts = ", ".join(f"{part.name} {in_bytes(part.disk)}" for part in content.footprint.components)
        lines = [title, f"Size: {in_bytes(row.disk)} ({parts}).", self._memory(row), self._time(row)]
        lines.append(f"How good that is: {error_label(cost_model())}.")
        return [*lines, *self.advice()]

    def advice(self) -> list[str]:
        """What to choose, as far as it isn't what was asked for already."""
        return [*self._attention_advice(), *self._bits_advice(), *self._steps_advice()]

    def table(self) -> Table:
        """All rows side by side."""
        rows = []
        for row in self.rows:
            content = row.content
            least = "at least " if content.attention == "original" else ""
            rows.append(
                (
                    _bits(content),
                    content.attention,
                    _by(content.pixels),
                    in_bytes(row.disk),
                    in_bytes(content.footprint.all_loaded()),
                    in_bytes(content.footprint.one_at_a_time()),
                    row.fit(self.device) or "no limit known",
                    least + in_milliseconds(row.call_ms),
                    least + in_seconds(row.time.picture_ms),
                )
            )
        columns = ("weights", "attention", "picture", "size", "memory", "one at a time", "app", "a step", "a picture")
        return Table(
            f"Side by side on {self.device.name}: what was asked for, then one thing changed at a time",
            columns,
            tuple(rows),
            text_columns=(0, 1, 2, 6),
            caption="The attention form original is made for the GPU: no published figure says what it takes on the "
            "Neural Engine. A model draws best at the size that it was trained for. Fewer bits cost quality, which "
            "`sfmobile verify` measures.",
        )

    def parts(self) -> list[Table | str]:
        """The verdict, then the comparison if there is one."""
        lines = "\n".join(self.verdict())
        return [lines] if len(self.rows) == 1 else [lines, self.table()]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "device": self.device.id,
            "exported": self.exported,
            "label": "estimated",
            "budget_ms": self.budget_ms,
            "advice": self.advice(),
            "rows": [row.record(self.device) for row in self.rows],
        }

    def __str__(self) -> str:
        return as_text(self.parts())

    def _memory(self, row: Forecast) -> str:
        footprint = row.content.footprint
        needed = (
            f"Memory: {in_bytes(footprint.all_loaded())} at the peak with everything loaded, "
            f"{in_bytes(footprint.one_at_a_time())} one component at a time"
        )
        if self.device.memory_gb is None:
            return f"{needed}; no limit of an app is known for it."
        limit = memory_limits().of(self.device.memory_gb)
        return (
            f"{needed}; {row.fit(self.device)} (an app may have {in_bytes(limit.default_bytes)}, with the entitlement "
            f"{in_bytes(limit.increased_bytes)})."
        )

    def _time(self, row: Forecast) -> str:
        within = "within" if row.time.within_budget else "beyond"
        steps = f"{row.content.steps} step{'s' if row.content.steps > 1 else ''} of {in_milliseconds(row.call_ms)}"
        return (
            f"Time: {in_seconds(row.time.picture_ms)} a picture, {steps} and {in_milliseconds(row.once_ms)} once; "
            f"{within} the budget of {self.budget_ms / 1e3:g} s."
        )

    def _attention_advice(self) -> list[str]:
        asked = self.rows[0]
        if not asked.content.long:
            return []
        others = [row for row in self._varied("attention") if not row.content.long]
        chunked = [row for row in others if row.content.attention != "original"]
        if not chunked:
            return [
                "split-einsum-v2 looks at 512 queries at a time and is faster here; --compare says by how much."
                if not self.exported
                else "Exported with split-einsum-v2 it would look at 512 queries at a time and be faster; estimate its "
                "checkpoint with --compare to see by how much."
            ]
        best = min(chunked, key=lambda row: row.time.picture_ms)
        gain = asked.time.picture_ms / best.time.picture_ms
        if gain < WORTH:
            return []
        return [
            f"Choose --attention {best.content.attention} for the Neural Engine: {1 - 1 / gain:.0%} less time by what "
            "published figures of both forms differ. It isn't the default because its program is nearly twice as "
            "long, which the phone compiles when it first loads it; for SDXL Apple gave that up."
        ]

    def _bits_advice(self) -> list[str]:
        asked = self.rows[0]
        rows = [row for row in (asked, *self._varied("bits")) if row.fit(self.device) is not None]
        if len(rows) < 2:
            return []
        best = min(rows, key=lambda row: (VERDICTS.index(row.fit(self.device) or ""), -(row.content.bits or 16)))
        if best is asked:
            return []
        fit, now = best.fit(self.device), asked.fit(self.device)
        return [
            f"Choose --bits {best.content.bits or 'none'}: the most that {fit} on this device"
            + (f", where {_bits(asked.content)}: {now}." if fit != now else f", as {_bits(asked.content)} does too.")
        ]

    def _steps_advice(self) -> list[str]:
        row = self.rows[0]
        if row.time.within_budget or not row.call_ms:
            return []
        room = int((self.budget_ms - row.once_ms) // row.call_ms)
        budget = f"{self.budget_ms / 1e3:g} s"
        if room >= 1:
            return [
                f"Within {budget} there is room for {room} step{'s' if room > 1 else ''}: a model distilled to so few."
            ]
        return [f"Not even one step fits into {budget}: choose a smaller picture, a smaller network or a faster phone."]

    def _varied(self, what: Literal["attention", "bits"]) -> list[Forecast]:
        """The rows that differ from the asked one in this alone."""
        fields = ("attention", "bits", "latent_size")
        asked = self.rows[0].content
        return [
            row
            for row in self.rows[1:]
            if [name for name in fields if getattr(row.content, name) != getattr(asked, name)] == [what]
        ]


def estimate(
    source: Checkpoint | Bundle | Path | str,
    *,
    device: str,
    compare: bool = False,
    bits: int | Literal["none"] | None = None,
    attention: AttentionForm = "split-einsum",
    size: tuple[int, int] | None = None,
    latent_size: tuple[int, int] | None = None,
    guidance_batch: Literal[1, 2] = 2,
    target: Target | None = None,
    steps: int | None = None,
    budget: float = BUDGET_MS / 1e3,
    revision: str | None = None,
    prediction: Prediction | None = None,
    observer: Observer | None = None,
) -> Estimate:
    """Size, memory and time of a picture on a device, before anything is exported; nothing is executed.

    source: a checkpoint (as `open_checkpoint` takes it; its weights aren't read), the name of a layout (sd15, sd21,
    snapfusion, sdxl, ssd-1b, or layout:NAME), or a bundle. device: "iphone-14-pro", or its name. compare: also with
    other bits, other attention forms and smaller pictures, one thing changed at a time. bits, attention, size,
    latent_size, guidance_batch, target: as `export` takes them; a bundle has its own. steps: of a picture, the model's
    own without it. budget: seconds that a picture may take. revision, prediction: as `open_checkpoint` takes them.

    Raises `UsageError` for an unknown device and for options that don't fit, `ArtifactError` for what is none of these.
    """
    from sfmobile.export.component import fitted
    from sfmobile.export.exported import export_options

    told = observer or Observer()
    phone = device_table().find(device)
    if isinstance(source, Bundle) or (isinstance(source, (str, Path)) and (Path(source) / MANIFEST_FILE).is_file()):
        bundle = source if isinstance(source, Bundle) else Bundle.open(Path(source), "sizes")
        _refuse_for_bundle(bundle, compare, bits, attention, size or latent_size, target)
        content = bundle_content(bundle, steps)
        return Estimate(bundle.manifest.name, phone, budget * 1e3, (_on(phone, content, budget),), True)
    checkpoint = _checkpoint(source, revision, prediction, told)
    wanted = export_options(
        attention=attention,
        bits=bits,
        target=target,
        size=size or (),
        latent_size=latent_size or (),
        guidance_batch=guidance_batch,
    )
    asked = fitted(wanted, checkpoint)
    rows = []
    for options in (asked, *(_compared(checkpoint, asked) if compare else ())):
        told.start(f"Drawing {options.attention} at latents {_by(options.latent_size or checkpoint.latent_size)}")
        rows.append(_on(phone, checkpoint_content(checkpoint, options, steps), budget))
    return Estimate(checkpoint.name, phone, budget * 1e3, tuple(rows), False)


def _checkpoint(
    source: Checkpoint | Bundle | Path | str, revision: str | None, prediction: Prediction | None, observer: Observer
) -> Checkpoint:
    from sfmobile.checkpoint.hub import open_checkpoint
    from sfmobile.checkpoint.unwritten import named_layout

    if isinstance(source, str) and (layout := named_layout(source)) is not None:
        return layout
    assert not isinstance(source, Bundle)
    observer.start(f"Opening {source}")
    return open_checkpoint(source, revision, prediction=prediction)


def _refuse_for_bundle(
    bundle: Bundle,
    compare: bool,
    bits: object,
    attention: AttentionForm,
    latent_size: object,
    target: object,
) -> None:
    """What a bundle is made of can't be chosen any more."""
    if compare or attention != "split-einsum" or any(one is not None for one in (bits, latent_size, target)):
        raise UsageError(
            f"'{bundle.root}' is exported already, so its bits, attention, size and target are what they are; estimate "
            f"its checkpoint ('{bundle.manifest.source.id}') to compare others."
        )
    kinds = {record.format for record in bundle.manifest.components.values()}
    if kinds != {"mlprogram"}:
        raise UsageError(
            f"'{bundle.root}' holds {', '.join(sorted(kinds - {'mlprogram'}))} files and the estimate is of Core ML "
            "packages; estimate its checkpoint, or export that without --format."
        )


def _compared(checkpoint: Checkpoint, asked: ExportOptions) -> list[ExportOptions]:
    """The asked options with one thing changed: the form, the bits, the size, as far as the network can have it."""
    found = [replace(asked, attention=form) for form in ATTENTION_FORMS if form != asked.attention]
    found += [replace(asked, bits=bits) for bits in COMPARED_BITS if bits != asked.bits]
    height, width = asked.latent_size or checkpoint.latent_size
    factor = checkpoint.unet_layout.downsampling
    for share in COMPARED_SIDES:
        size = (int(height * share) // factor * factor, int(width * share) // factor * factor)
        if min(size) >= factor and size != (height, width):
            found.append(replace(asked, latent_size=size))
    return found


def _on(device: Device, content: Content, budget: float) -> Forecast:
    basis = device_table().chips[device.chip].basis or "published latencies of this chip"
    return Forecast(content, device_time(content.parts, device, rate_basis=basis, budget_ms=budget * 1e3))


def _bits(content: Content) -> str:
    return "fp16" if content.bits is None else f"{content.bits} bits" if content.bits else "mixed bits"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _hardware(device: Device) -> str:
    return device.chip if device.memory_gb is None else f"{device.chip}, {device.memory_gb:g} GB"
