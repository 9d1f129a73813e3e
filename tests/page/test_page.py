from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfmobile
from sfmobile.bench.records import RuntimeRecord
from sfmobile.bench.report import BenchReport, write_report
from sfmobile.bench.verify_report import Exactness, ReferenceRecord, VerifyReport
from sfmobile.bundle.digest import digest_file
from sfmobile.bundle.directory import MANIFEST_FILE, Bundle
from sfmobile.errors import UsageError
from sfmobile.page.content import EXAMPLES, PageContent, Shown, gather, label_of, prompts_of, told_apart, work
from sfmobile.page.rendering import render, write_page
from sfmobile.sampling.picture import to_pixels
from sfmobile.sampling.vocabulary import built_in_vocabulary
from sfmobile.verify.signal import agreement
from tests.bench.sample import BUNDLE, MACHINE, bench, close_by, verify

# Elements of HTML that are never closed; those of SVG are closed where they are opened, or around a title.
ADDRESSES = ("src", "href", "srcset", "action", "data", "poster", "background", "xlink:href")
VOID = {"meta", "img", "br"}
SECTIONS = (
    "Pictures",
    "Agreement with the reference",
    "Time on iPhone 14 Pro: estimated",
    "Measured latency",
    "Bits and sizes",
    "Neural Engine lint",
    "Versions and checksums",
)


class Page(HTMLParser):
    """Reads a page strictly: every element is closed, in order; keeps headings, pictures and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.structure: list[tuple[str, ...]] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.pictures: list[np.ndarray] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.structure.append((tag, *values))
        self.texts += [value or "" for value in values.values()]
        self.addresses += [value or "" for name, value in attrs if name in ADDRESSES]
        if tag == "img":
            kind, data = (values["src"] or "").split(",", 1)
            assert kind == "data:image/png;base64"
            assert values["alt"]
            self.pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.structure.append((tag, *(name for name, _ in attrs)))
        assert tag in ("line", "circle", "polyline", "rect")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def content(tiny_bundle: Bundle, tiny_palettized_bundle: Bundle) -> PageContent:
    return gather(tiny_palettized_bundle, beside=[tiny_bundle], device="iphone-14-pro")


def test_the_page_is_valid_and_has_every_section(content: PageContent) -> None:
    page = Page(render(content))
    assert page.headings == [content.manifest.name, *SECTIONS]


def test_the_page_needs_no_network(content: PageContent) -> None:
    text = render(content)
    assert all(address.startswith("data:") for address in Page(text).addresses)
    assert not re.search(r"https?://|@import|url\(|<link|<iframe|<object|<embed|fetch\(|XMLHttpRequest|import\(", text)
    # A browser refuses what this would miss.
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert not re.search(r"https?:|\*", policy)


def test_no_script_runs_but_the_pages_own(content: PageContent) -> None:
    text = render(content)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{known}'\"" in text
    assert "beforeprint" in script


HOSTILE = (
    """<script>alert("1")</script>'"><img src=x onerror=alert(1)></title></style><!-- {{ 7 * 7 }} {% if %} """
    "[bold] &lt; "
    "\0\x1b[31m\x7f\x9b\u202e\u2066\ud800\uffff"
)
VISIBLE = HOSTILE[: HOSTILE.index("\0")] + "\ufffd\ufffd[31m" + "\ufffd" * 6


def failed(content: PageContent, words: str) -> VerifyReport:
    """A verdict of the content's bundle that has `words` for what is wrong."""
    report = verify(unet=close_by(20.0))
    return report.model_copy(
        update={
            "bundle": report.bundle.model_copy(update={"manifest_sha256": content.manifest_sha256}),
            "exact": Exactness(components={}, constants=(words,)),
            "references": (ReferenceRecord(name="nets", description="", skipped=words),),
            "passed": False,
        }
    )


def saying(content: PageContent, text: str, bench: BenchReport) -> PageContent:
    """`content` with `text` for every word of it that somebody may have chosen."""
    manifest, times, run = content.manifest, content.times, content.runs[0]
    assert manifest.golden is not None and times is not None
    record = manifest.components["unet"]
    (path, file), *_ = record.files.items()
    weight, finding = content.weights[0], content.findings[0]
    block = times.components[0].blocks[0].model_copy(update={"block": text})
    time = times.components[0].model_copy(update={"blocks": (block,), "source": text})
    said = finding.model_copy(update={"package": text, "block": text, "message": text})
    return replace(
        content,
        machine=text,
        tools={text: text},
        manifest=manifest.model_copy(
            update={
                "name": text,
                "golden": manifest.golden.model_copy(update={"prompt": text}),
                "source": manifest.source.model_copy(update={"id": text, "licence": text}),
                "tools": {text: text},
                "components": {"unet": record.model_copy(update={"files": {f"{path}{text}": file}})},
            }
        ),
        verdict=failed(content, text),
        shown=(Shown(text, {text: content.reference or b""}),),
        fit=text,
        runs=(
            replace(run, label=text, runtime=text),
            replace(run, label=text, picture=None, failure=text),
        ),
        times=times.model_copy(
            update={"device_name": text, "chip": text, "rate_basis": text, "label": text, "components": (time,)}
        ),
        benches=(
            bench.model_copy(
                update={
                    "machine": bench.machine.model_copy(update={"model": text, "os": text}),
                    "runtime": bench.runtime.model_copy(update={"description": text}),
                }
            ),
        ),
        weights=(replace(weight, package=text, block=text, weight=replace(weight.weight, name=text, shape=(64, 64))),),
        findings=(said.model_copy(update={"exception": None}), said.model_copy(update={"exception": text})),
    )


def test_what_a_bundle_says_is_shown_and_never_followed(content: PageContent) -> None:
    """Markup, quotes, template syntax and control characters: the same elements and attributes, the words intact."""
    plain, hostile = (Page(render(saying(content, text, bench()))) for text in ("harmless", HOSTILE))
    assert hostile.structure == plain.structure
    shown = [sum(text.count(word) for text in page.texts) for page, word in ((plain, "harmless"), (hostile, VISIBLE))]
    assert shown[0] == shown[1] > 30
    unseen = {*map(chr, range(0x20)), *"\x7f\x9b\u202e\u2066\ud800\uffff"} - {"\n"}
    assert not unseen & set(render(saying(content, HOSTILE, bench())))


def test_the_newest_verdict_of_this_very_bundle_is_shown_first(
    tiny_palettized_bundle: Bundle, content: PageContent, tmp_path: Path
) -> None:
    """A bundle under its gate doesn't look well only because an estimate is within its budget."""
    assert content.verdict is None and "not verified" in render(content)
    bundle = Bundle(Path(shutil.copytree(tiny_palettized_bundle.root, tmp_path / "b")), tiny_palettized_bundle.manifest)
    bad = failed(content, "the decoder is another one")
    write_report(bad, bundle.reports_dir / "verify.json")
    write_report(verify(), bundle.reports_dir / "of another bundle.json")
    text = render(gather(bundle, run=False))
    assert ">FAILED<" in text and "the decoder is another one" in text and text.index("FAILED") < text.index("<h2>")
    later = bad.created_at + timedelta(minutes=1)
    good = bad.model_copy(update={"exact": None, "passed": True, "created_at": later})
    write_report(good, bundle.reports_dir / "later.json")
    text = render(gather(bundle, run=False))
    assert ">verified<" in text and "FAILED" not in text


def test_it_fits_a_phone_and_paper(content: PageContent) -> None:
    text = render(content)
    assert 'name="viewport" content="width=device-width' in text
    assert "@media print" in text and "beforeprint" in text
    # Tables scroll inside the page instead of widening it.
    assert text.count("<table>") == len(re.findall(r'<div class="scroll(?: stack)?"><table>', text))
    # Prose in cells can't scroll: on a phone each row is a paragraph, a cell behind its column's name.
    assert 'class="scroll stack"' in text and 'data-name="reason"' in text
    assert re.search(r"@media \(max-width: 30rem\).*attr\(data-name\)", text, re.DOTALL)


def test_pictures_are_the_references_and_each_bundles_own(content: PageContent, tiny_bundle: Bundle) -> None:
    reference, half, packed = Page(render(content)).pictures
    np.testing.assert_array_equal(reference, to_pixels(tiny_bundle.golden("decoder.image")))
    assert [run.label for run in content.runs] == ["fp16", "6 bits"]
    for pixels, run in zip((half, packed), content.runs, strict=True):
        assert run.picture_agreement == agreement(reference, pixels, peak=255)
        assert run.runtime.startswith("mil fp16")
    fine, coarse = (run.picture_agreement.psnr_db for run in content.runs if run.picture_agreement)
    assert fine is not None and coarse is not None and fine > coarse


def test_agreement_is_told_per_component_and_step(content: PageContent, tiny_bundle: Bundle) -> None:
    golden = tiny_bundle.manifest.golden
    assert golden is not None
    for run in content.runs:
        assert list(run.components) == list(tiny_bundle.manifest.components)
        assert len(run.steps) == golden.steps
    text = render(content)
    for run in content.runs:
        for found in run.components.values():
            assert f"{found.psnr_db:.1f} dB" in text


def test_every_layer_is_listed_with_its_bits(content: PageContent) -> None:
    text = render(content)
    conv = next(one for one in content.weights if one.weight.name.startswith("down_blocks_0_resnets_0_conv1_weight"))
    assert (conv.weight.bits, conv.block) == (6, "down_blocks.0.resnets.0")
    assert f"<code>{conv.weight.name}</code>" in text
    assert content.manifest_sha256 in text
    for record in content.manifest.components.values():
        assert all(file.sha256 in text for file in record.files.values())


def test_times_are_labelled_estimated_and_held_against_the_budget(content: PageContent) -> None:
    times = content.times
    assert times is not None and times.label == "estimated"
    text = render(content)
    assert "estimated" in text and 'class="good">within</span> the budget of 2 s' in text
    late = replace(content, times=times.model_copy(update={"budget_ms": times.picture_ms / 2}))
    assert 'class="error">beyond</span>' in render(late)


def test_measurements_of_this_bundle_are_shown_and_those_of_the_device_replace_the_estimate(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.root, root)
    bundle = Bundle.open(root, check="none")
    here = BUNDLE.model_copy(update={"manifest_sha256": digest_file(root / MANIFEST_FILE).sha256})
    phone = MACHINE.model_copy(update={"model": "iPhone15,2", "processor": "Apple A16", "os": "iOS 18.1"})
    core_ml = RuntimeRecord(kind="coreml", description="coreml CPU_AND_NE", compute_unit="CPU_AND_NE")
    write_report(bench(bundle=here), root / "reports" / "bench.json")
    write_report(bench(7.0, bundle=here, machine=phone, runtime=core_ml), root / "reports" / "phone.json")
    write_report(bench(), root / "reports" / "of_another_bundle.json")
    (root / "reports" / "broken.json").write_text("{")
    found = gather(bundle, device="iphone-14-pro", run=False)
    assert len(found.benches) == 2
    times = found.times
    assert times is not None
    bases = {one.component: (one.basis, one.call_ms) for one in times.components}
    assert bases["unet"] == ("measured", 7.0)
    assert bases["text_encoder"][0] == "estimated"
    text = render(found)
    assert "coreml CPU_AND_NE" in text and "iPhone15,2, iOS 18.1" in text
    assert "Not measured for this page" in text


def test_findings_without_a_reason_stand_out(content: PageContent) -> None:
    accepted = next(finding for finding in content.findings if finding.exception)
    text = render(content)
    assert "No findings beyond the exceptions below" in text
    assert accepted.exception is not None and accepted.exception in text
    bare = accepted.model_copy(update={"exception": None, "message": "<sin> & cos"})
    text = render(replace(content, findings=(bare,)))
    assert 'class="badge warning"' in text and "&lt;sin&gt; &amp; cos" in text
    Page(text)


def test_a_run_that_breaks_off_is_told_instead_of_shown(content: PageContent) -> None:
    broken = replace(content.runs[0], picture=None, picture_agreement=None, failure="NaN <in> step 1", steps=())
    page = Page(render(replace(content, runs=(broken,))))
    assert len(page.pictures) == 1


def test_a_bundle_of_another_checkpoint_has_no_place_beside(
    tiny_bundle: Bundle, tiny_palettized_bundle: Bundle
) -> None:
    records = tiny_bundle.manifest.components
    changed = {**records, "unet": records["unet"].model_copy(update={"source_sha256": "f" * 64})}
    other = Bundle(tiny_bundle.root, tiny_bundle.manifest.model_copy(update={"components": changed}))
    with pytest.raises(UsageError, match="the unet of another checkpoint"):
        gather(tiny_palettized_bundle, beside=[other], run=False)


def test_a_bundle_without_golden_vectors_says_so(tiny_bundle: Bundle) -> None:
    bare = Bundle(tiny_bundle.root, tiny_bundle.manifest.model_copy(update={"golden": None}))
    text = render(gather(bare))
    assert "holds no golden run" in text
    Page(text)


def test_further_prompts_are_drawn_with_every_bundle(
    tiny_bundle: Bundle, tiny_palettized_bundle: Bundle, tmp_path: Path
) -> None:
    told: list[int] = []
    prompts = ["a red apple", "a <b>"]
    found = gather(tiny_palettized_bundle, beside=[tiny_bundle], prompts=prompts, advance=told.append)
    assert sum(told) == work(tiny_palettized_bundle, [tiny_bundle], prompts)
    assert [(one.prompt, list(one.pictures)) for one in found.shown] == [(text, ["fp16", "6 bits"]) for text in prompts]
    page = Page(render(found))
    assert len(page.pictures) == 1 + 2 + 2 * 2
    with sfmobile.Pipeline(tiny_bundle, precision="fp16") as pipeline:
        assert found.shown[0].pictures["fp16"] == pipeline("a red apple").png()


def test_the_built_in_model_draws_examples_that_it_knows(tiny_bundle: Bundle) -> None:
    assert prompts_of(tiny_bundle, None) == () and prompts_of(tiny_bundle, ["x"]) == ("x",)
    glyph = Bundle(tiny_bundle.root, tiny_bundle.manifest.model_copy(update={"name": "glyph"}))
    assert prompts_of(glyph, None) == EXAMPLES
    assert not [text for text in EXAMPLES if built_in_vocabulary().note(text)]


def test_the_page_begins_with_verdict_memory_and_time(content: PageContent) -> None:
    begins = render(content).split("<h2>")[0]
    assert "not verified" in begins and "Memory, estimated: " in begins and "Time on iPhone 14 Pro, estimated" in begins


def test_progress_advances_as_often_as_announced(tiny_bundle: Bundle, tiny_palettized_bundle: Bundle) -> None:
    told: list[int] = []
    gather(tiny_palettized_bundle, beside=[tiny_bundle], advance=told.append)
    assert sum(told) == work(tiny_palettized_bundle, [tiny_bundle])


def test_labels_say_how_weights_are_stored(tiny_bundle: Bundle, tiny_palettized_bundle: Bundle) -> None:
    assert (label_of(tiny_bundle), label_of(tiny_palettized_bundle)) == ("fp16", "6 bits")


def test_bundles_that_store_weights_alike_are_told_apart_by_name(content: PageContent) -> None:
    first, second = content.runs
    assert [run.label for run in told_apart([first, second], ["a", "b"])] == ["fp16", "6 bits"]
    assert [run.label for run in told_apart([second, second], ["a", "b"])] == ["6 bits (a)", "6 bits (b)"]


def test_the_page_is_written_whole(content: PageContent, tmp_path: Path) -> None:
    path = tmp_path / "pages" / "report.html"
    write_page(render(content), path)
    assert path.read_text(encoding="utf-8") == render(content)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_budget_is_drawn_where_it_is_near_and_told_where_it_is_far(content: PageContent) -> None:
    times = content.times
    assert times is not None
    longest = max(one.picture_ms for one in times.components)
    near, far = (
        render(replace(content, times=times.model_copy(update={"budget_ms": factor * longest}))) for factor in (2, 667)
    )
    assert near.count('class="limit"') == 1 and "times the longest bar" not in near
    assert 'class="limit"' not in far
    # The bar leaves out the dispatches of its calls.
    assert re.search(r"budget [\d.]+ s: \d{3} times the longest bar →", far)


def test_every_step_of_every_run_is_a_point(content: PageContent) -> None:
    text = render(content)
    assert text.count("<circle") == sum(len(run.steps) for run in content.runs)
    assert text.count("<polyline") == len(content.runs)
    run = content.runs[0]
    lost = replace(run, steps=tuple(step.model_copy(update={"psnr_db": None}) for step in run.steps))
    assert "<svg" not in render(replace(content, runs=(lost,), times=None))
