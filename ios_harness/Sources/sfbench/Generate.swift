import ArgumentParser
import Foundation
import SnapFusionKit

/// `sfbench generate`: text to pictures, with the options and the report of `sfmobile generate`.
struct Generate: AsyncParsableCommand {
    static var configuration: CommandConfiguration {
        CommandConfiguration(abstract: "Text to pictures.")
    }

    @Argument(help: "The bundle, as sfmobile export made it.")
    var bundle: String

    @Argument(help: "What to draw; a picture for each.")
    var prompts: [String] = []

    @Option(
        name: [.customShort("o"), .customLong("output")],
        help: ArgumentHelp("The picture; several are numbered.", valueName: "file.png"))
    var picture = "picture.png"

    @Option(help: "Sampling steps; the model's own without it.")
    var steps: Int?

    @Option(help: "Another sampler than the model's own: ddim, euler-ancestral, dpm++2m-karras …")
    var sampler: String?

    @Option(help: "How much noise is drawn anew on the way, 0 to 1; of the samplers ddim and tcd.")
    var eta: Double?

    @Option(help: "The same seed, the same picture.")
    var seed: UInt64 = 0

    @Option(help: "Guidance scale; 1 is none.")
    var guidance: Double?

    @Option(
        help: ArgumentHelp(
            "a1111 reads weights, (word:1.3), and BREAK; plain takes prompts as they stand.", valueName: "plain|a1111"))
    var promptSyntax = Prompt.Syntax.plain

    @Option(
        help: ArgumentHelp(
            "A picture for a ControlNet of the bundle, at scale 1: a PNG, or float32 (1, 3, H, W) in 0 to 1 as .npy; may "
                + "be repeated.", valueName: "name=file[:scale]"))
    var control: [String] = []

    @Option(help: "Share of the steps: before it nothing is controlled.")
    var controlStart = 0.0

    @Option(help: "Share of the steps: behind it nothing is controlled.")
    var controlEnd = 1.0

    @Option(help: "What the picture should not look like.")
    var negative = ""

    @Flag(
        inversion: .prefixedNo,
        help: "Look at each picture before it is shown, where the bundle has what that takes; a flagged one is black.")
    var safetyChecker = true

    @OptionGroup(title: "Picture")
    var given: GivenOptions

    @Flag(help: "Also a picture of what each step predicts.")
    var preview = false

    @Option(help: ArgumentHelp("All pictures side by side.", valueName: "file.png"))
    var sheet: String?

    @Flag(help: "One component, or chunk, in memory at a time.")
    var lowMemory = false

    @Option(help: ArgumentHelp("Tokens and latents of every step, as .npy.", valueName: "folder"))
    var vectors: String?

    @OptionGroup(title: "Shapes")
    var shapes: ShapeOptions

    @OptionGroup(title: "Engine")
    var options: EngineOptions

    func run() async throws {
        guard !prompts.isEmpty else { throw UsageError("expected a prompt after the bundle; see `sfbench --help`.") }
        if let empty = prompts.firstIndex(where: { $0.allSatisfy(\.isWhitespace) }) {
            throw UsageError("prompt \(empty + 1) is empty; say what to draw.")
        }
        let output = URL(fileURLWithPath: picture)
        let sheet = sheet.map { URL(fileURLWithPath: $0) }
        for path in [output] + (sheet.map { [$0] } ?? []) where path.pathExtension.lowercased() != "png" {
            throw UsageError("'\(path.path)' should end in .png, the only format pictures are written in.")
        }
        let engine = try Engine(bundle: bundle, options, shapes, chunks: lowMemory ? .one : .all)
        try createFolder(output.deletingLastPathComponent())
        let runner = try engine.makeRunner()
        let pipeline = try TextToImage(bundle: engine.bundle, runner: runner, keepLoaded: !lowMemory)
        let controls = try control.map { 
            try Control(argument: $0, start: controlStart, end: controlEnd, latents: engine.bundle.manifest.latents)
        }
        let given = try given.picture(for: engine.bundle.manifest.latents)
        var entries: [OrderedJSON] = []
        var pictures: [GeneratedPicture] = []
        for (index, prompt) in prompts.enumerated() {
            var request = TextToImage.Request(
                prompt: prompt, negativePrompt: negative, seed: seed, steps: steps, guidanceScale: guidance,
                sampler: sampler, eta: eta, syntax: promptSyntax, given: given,
                previews: preview ? .decoded : .none)
            request.controls = controls
            request.isChecked = safetyChecker
            let name = output.deletingPathExtension().lastPathComponent
            let path =
                prompts.count == 1
                ? output : output.deletingLastPathComponent().appendingPathComponent("\(name)-\(index + 1).png")
            let (picture, entry) = try await draw(request, on: pipeline, to: path)
            pictures.append(picture)
            entries.append(entry)
        }
        await runner.unloadAll()
        if let sheet {
            try createFolder(sheet.deletingLastPathComponent())
            try write(GeneratedPicture(sideBySide: pictures).png(), to: sheet)
        }
        guard options.json else { return }
        let report = OrderedJSON.object([.init("pictures", .array(entries)), .init("sheet", OrderedJSON(sheet?.path))])
        print(report.serialized(), terminator: "")
    }

    private func draw(
        _ request: TextToImage.Request, on pipeline: TextToImage, to path: URL
    ) async throws -> (GeneratedPicture, OrderedJSON) {
        for (what, text) in [("prompt", request.prompt), ("negative prompt", request.negativePrompt)] {
            try pipeline.cut(text, request.syntax).notes(of: what).forEach(note)
        }
        let start = ContinuousClock.now
        var seconds: [Double] = []
        var previews: [URL] = []
        var latents: [HostTensor] = []
        var drawn: GeneratedPicture?
        var verdict: SafetyChecker.Verdict?
        for try await event in pipeline.run(request) {
            switch event {
            case .loaded(let name, let seconds): note(String(format: "%@ loaded in %.2f s", name.rawValue, seconds))
            case .encoded(let tokens, let negative, _):
                try save("tokens", rows(tokens, of: pipeline))
                if let negative {
                    try save("negative_tokens", rows(negative, of: pipeline))
                }
            case .noise(let noise): latents.append(noise)
            case .step(let step):
                seconds.append(step.seconds)
                latents.append(step.latents)
                note(
                    String(
                        format: "step %d of %d, timestep %.0f, %.0f ms", step.index + 1, step.count, Double(step.timestep),
                        step.seconds * 1e3))
                if let preview = step.preview {
                    let name =
                        path.deletingPathExtension().lastPathComponent
                        + String(format: "-step-%02d.png", step.index + 1)
                    previews.append(path.deletingLastPathComponent().appendingPathComponent(name))
                    try write(preview.png(), to: previews[step.index])
                }
            case .checked(let found, let seconds):
                verdict = found
                note(String(format: "the safety checker took %.0f ms", seconds * 1e3))
                if found.isFlagged {
                    note("The safety checker flags this picture: it is black. Another seed or prompt may pass.")
                    // What led to it shows it too.
                    try previews.forEach { try FileManager.default.removeItem(at: $0) }
                    previews = []
                }
            case .picture(let picture, _, _):
                drawn = picture
                try write(picture.png(), to: path)
            }
        }
        guard let drawn else { throw CancellationError() }
        let elapsed = start.secondsSince()
        let shape = pipeline.bundle.manifest.latents.shape
        try save(
            "latents",
            NumpyArray(shape: [latents.count] + shape.dropFirst(), elements: .float32(latents.flatMap(\.floats))))
        if !options.json { print(String(format: "%@: %d steps, %.2f s in all", path.path, seconds.count, elapsed)) }
        let entry = OrderedJSON.object([
            .init("path", .string(path.path)),
            .init("previews", .array(previews.map { .string($0.path) })),
            .init("settings", .object(drawn.settings)),
            .init("steps_seconds", .array(seconds.map(OrderedJSON.number))),
            .init("seconds", .number(elapsed)),
            .init("safety", verdict?.json ?? .null),
        ])
        return (drawn, entry)
    }

    /// Token ids, a chunk a row.
    private func rows(_ ids: [Int32], of pipeline: TextToImage) -> NumpyArray {
        let length = pipeline.tokenizer.maxLength
        return NumpyArray(shape: [ids.count / length, length], elements: .int32(ids))
    }

    /// Writes one array of the run into the folder of `--vectors`, if there is one.
    private func save(_ name: String, _ array: NumpyArray) throws {
        guard let vectors = vectors.map({ URL(fileURLWithPath: $0) }) else { return }
        try createFolder(vectors)
        try write(array.serialized(), to: vectors.appendingPathComponent("\(name).npy"))
    }
}

/// Writes a file, whole or not at all.
func write(_ data: Data, to path: URL) throws {
    do {
        try data.write(to: path, options: .atomic)
    } catch {
        throw UsageError("'\(path.path)' can't be written; choose another place.")
    }
}

func createFolder(_ folder: URL) throws {
    do {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    } catch {
        throw UsageError("'\(folder.path)' can't be made; choose another place.")
    }
}

/// A line for people, on stderr.
func note(_ text: String) { FileHandle.standardError.write(Data((text + "\n").utf8)) }

extension Prompt.Syntax: @retroactive ExpressibleByArgument {}

extension Control {
    /// `NAME=FILE[:scale]`. Throws `UsageError` for another form, `FileFormatError` for a file that holds no picture.
    init(argument: String, start: Double, end: Double, latents: LatentsRecord) throws {
        let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty else {
            throw UsageError("--control \(argument) names no picture; expected NAME=FILE or NAME=FILE:SCALE, canny=edges.png.")
        }
        var (file, scale) = (parts[1], 1.0)
        if let colon = file.lastIndex(of: ":"), !FileManager.default.fileExists(atPath: file) {
            guard let number = Double(file[file.index(after: colon)...]) else {
                throw UsageError("--control \(argument): expected a number behind the last colon, the scale.")
            }
            (file, scale) = (String(file[..<colon]), number)
        }
        guard !file.hasSuffix(".npy") else {
            let picture = try NumpyArray(contentsOf: URL(fileURLWithPath: file)).tensor()
            self.init(name: parts[0], picture: picture, scale: scale, start: start, end: end)
            return
        }
        let factor = latents.pixelsPerLatent
        let (picture, done) = try PictureFit.fill.bring(
            readPicture(file), width: factor * latents.width, height: factor * latents.height)
        if let done { note(done) }
        try self.init(name: parts[0], of: picture, scale: scale, start: start, end: end)
    }
}
