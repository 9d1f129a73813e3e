import SnapFusionCoreML
import SnapFusionKit
import UIKit

/// A picture on the screen: of a step, of the run, or of the history. `file` is its PNG, if it has one.
struct DrawnPicture: Identifiable {
    let id: String
    let image: UIImage
    /// What it shows, for VoiceOver and below the picture.
    let title: String
    /// A word or two below a small one.
    let caption: String
    var file: URL?
}

/// The last pictures, as PNG files with their prompts beside them.
struct PictureHistory {
    private(set) var entries: [DrawnPicture] = []
    private let folder: URL

    private static let most = 40

    init(folder: URL = .applicationSupportDirectory.appending(path: "History")) {
        self.folder = folder
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        entries = names.filter { $0.hasSuffix(".png") }.sorted(by: >).compactMap { read($0) }
    }

    /// Keeps a picture, and lets go of the oldest beyond the number kept. Returns its entry.
    mutating func add(_ picture: GeneratedPicture, title: String, seed: UInt64) throws -> DrawnPicture {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        // Names sort by time.
        let name = String(format: "%013.0f-%llu.png", Date().timeIntervalSince1970 * 1000, seed)
        let file = folder.appendingPathComponent(name)
        try picture.png().write(to: file, options: .atomic)
        try Data(title.utf8).write(to: note(beside: file), options: .atomic)
        let entry = DrawnPicture(
            id: name, image: try picture.uiImage(), title: title, caption: "Seed \(seed)", file: file)
        entries.insert(entry, at: 0)
        for old in entries.dropFirst(PictureHistory.most) { remove(old) }
        entries = Array(entries.prefix(PictureHistory.most))
        return entry
    }

    mutating func clear() {
        entries.forEach(remove)
        entries = []
    }

    private func read(_ name: String) -> DrawnPicture? {
        let file = folder.appendingPathComponent(name)
        guard let image = UIImage(contentsOfFile: file.path) else { return nil }
        let title = (try? String(contentsOf: note(beside: file), encoding: .utf8)) ?? "A picture without its prompt"
        let seed = name.dropLast(4).split(separator: "-").last ?? ""
        return DrawnPicture(id: name, image: image, title: title, caption: "Seed \(seed)", file: file)
    }

    private func remove(_ entry: DrawnPicture) {
        guard let file = entry.file else { return }
        try? FileManager.default.removeItem(at: file)
        try? FileManager.default.removeItem(at: note(beside: file))
    }

    private func note(beside file: URL) -> URL { file.appendingPathExtension("txt") }
}
