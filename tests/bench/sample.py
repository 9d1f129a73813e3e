"""Small valid reports for the tests."""

from __future__ import annotations

from typing import Any

from sfmobile.bench.records import BundleReference, MachineRecord, ProducerRecord, RuntimeRecord, now
from sfmobile.bench.report import BenchReport, ComponentLatency, ConditionsRecord, LoopLatency, MemoryRecord
from sfmobile.bench.verify_report import (
    Agreement,
    ComponentAgreement,
    EvaluationAgreement,
    SampleAgreement,
    VerifyReport,
)

MACHINE = MachineRecord(
    model="Mac14,2", processor="Apple M2", architecture="arm64", cores=8, memory_bytes=16 << 30, os="macOS 15.1"
)
BUNDLE = BundleReference(
    name="tiny", manifest_sha256="0" * 64, source_id="tiny", source_sha256="1" * 64, target="ios16"
)


def latency(median_ms: float = 10.0, peak_bytes: int = 1000) -> ComponentLatency:
    return ComponentLatency(
        cold_load_ms=100.0,
        warm_load_ms=50.0,
        first_prediction_ms=20.0,
        predictions=5,
        median_ms=median_ms,
        p95_ms=median_ms * 1.5,
        minimum_ms=median_ms * 0.9,
        memory=MemoryRecord(before_bytes=500, peak_bytes=peak_bytes),
        package_bytes=10,
        parameters=20,
    )


def bench(median_ms: float = 10.0, **changes: Any) -> BenchReport:
    report = BenchReport(
        created_at=now(),
        producer=ProducerRecord(),
        machine=MACHINE,
        conditions=ConditionsRecord(),
        runtime=RuntimeRecord(kind="mil", description="mil fp32", precision="fp32", threads=2),
        bundle=BUNDLE,
        components={"unet": latency(median_ms), "decoder": latency()},
        loop=LoopLatency(
            steps=2,
            guidance_scale=7.5,
            unet_calls=2,
            text_encoder_ms=1.0,
            steps_ms=(10.0, 10.0),
            decoder_ms=5.0,
            end_to_end_ms=27.0,
        ),
    )
    return report.model_copy(update=changes)


def close_by(psnr_db: float | None, nonfinite: int = 0, identical: bool = False) -> Agreement:
    return Agreement(psnr_db=psnr_db, identical=identical, max_abs_error=None, nonfinite=nonfinite)


def verify(unet: Agreement | None = None, picture: Agreement | None = None) -> VerifyReport:
    worst = unet or close_by(70.0)
    component = ComponentAgreement(
        worst=worst, gate_db=60.0, passed=True, samples=(SampleAgreement(input="step 1 of 2", agreement=worst),)
    )
    evaluation = EvaluationAgreement(
        runtime=RuntimeRecord(kind="mil", description="mil fp16", precision="fp16"),
        components={"unet": component},
        picture=picture or close_by(50.0),
        passed=True,
    )
    return VerifyReport(
        created_at=now(),
        producer=ProducerRecord(),
        machine=MACHINE,
        bundle=BUNDLE,
        reference=RuntimeRecord(kind="torch", description="torch fp32", precision="fp32"),
        prompts=("a red apple",),
        negative_prompt="",
        seed=0,
        steps=2,
        guidance_scale=7.5,
        evaluations=(evaluation,),
        passed=True,
    )
