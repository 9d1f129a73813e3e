import Foundation

/// Compiled models in a folder, under the checksums of what they were made from and the system that made them.
///
/// The system may empty the folder at any time (it is meant to lie in Caches); what is stale is taken out here: made by
/// another version of the system, or not used for a month.
public struct CompiledCache: Sendable {
    public let folder: URL
    /// The system's version with its build, e.g. "Version 18.1 (Build 22B83)".
    public let system: String

    /// Seconds that something stays without being used.
    public static let lifetime = 30.0 * 24 * 3600

    public init(folder: URL, system: String = ProcessInfo.processInfo.operatingSystemVersionString) {
        self.folder = folder
        self.system = system
    }

    /// Where the compiled model of one of a component's packages lies, or would.
    public func place(of name: ComponentName, _ part: ChunkRecord, in bundle: ModelBundle) throws -> URL {
        var digest = SHA256Digest()
        for (path, record) in try bundle.component(name).files(of: part).sorted(by: { $0.key < $1.key }) {
            digest.update(Data("\(path) \(record.sha256)\n".utf8))
        }
        return shelf.appendingPathComponent("\(name)-\(digest.hexadecimal().prefix(16)).mlmodelc")
    }

    /// Whether something lies at `place`; if so it counts as used now.
    public func finds(_ place: URL) -> Bool {
        guard FileManager.default.fileExists(atPath: place.path) else { return false }
        touch(place)
        return true
    }

    /// Moves what was made to its place. Another run may have been faster; what it kept is the same.
    public func keep(_ made: URL, at place: URL) throws {
        try FileManager.default.createDirectory(at: shelf, withIntermediateDirectories: true)
        do {
            try FileManager.default.moveItem(at: made, to: place)
        } catch  where FileManager.default.fileExists(atPath: place.path) {
            try? FileManager.default.removeItem(at: made)
        }
        touch(place)
    }

    /// Takes one out; no error if there is none.
    public func remove(_ place: URL) { try? FileManager.default.removeItem(at: place) }

    /// Takes out what is stale. Returns the names of what went.
    @discardableResult
    public func evict(now: Date = Date()) -> [String] {
        let files = FileManager.default
        func names(in folder: URL) -> [String] { (try? files.contentsOfDirectory(atPath: folder.path))?.sorted() ?? [] }
        var stale = names(in: folder).filter { $0 != shelf.lastPathComponent }.map(folder.appendingPathComponent)
        for name in names(in: shelf) {
            let place = shelf.appendingPathComponent(name)
            let used = (try? files.attributesOfItem(atPath: place.path))?[.modificationDate] as? Date
            if now.timeIntervalSince(used ?? .distantPast) > CompiledCache.lifetime { stale.append(place) }
        }
        return stale.compactMap { place in
            (try? files.removeItem(at: place)).map { place.lastPathComponent }
        }
    }

    /// The folder of this system's models.
    private var shelf: URL {
        var digest = SHA256Digest()
        digest.update(Data(system.utf8))
        return folder.appendingPathComponent("system-\(digest.hexadecimal().prefix(12))")
    }

    private func touch(_ place: URL) {
        try? FileManager.default.setAttributes([.modificationDate: Date()], ofItemAtPath: place.path)
    }
}
