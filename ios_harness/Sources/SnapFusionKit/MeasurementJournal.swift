import Foundation

/// What is measured, kept on disk piece by piece, so that a process that ends in the midst of it loses only that piece.
///
/// A marker says what is running. One that is found when the journal is opened was left by a process that ended then:
/// crashed, or killed for its memory. That piece counts as crashed and isn't tried again; the others are kept.
public struct MeasurementJournal: Sendable {
    public let folder: URL
    /// What earlier processes ended in the midst of, in order.
    public let crashed: [String]

    private static let version = 1

    /// Opens the journal in `folder`, or begins it. What was noted under another key is forgotten.
    ///
    /// - Parameter key: what the figures belong to: the bundle's checksum, the compute units, the system.
    public init(folder: URL, key: String) throws {
        self.folder = folder
        let key = "\(MeasurementJournal.version) \(key)"
        let known = try? String(contentsOf: folder.appendingPathComponent("key"), encoding: .utf8)
        if known != key {
            try? FileManager.default.removeItem(at: folder)
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            try Data(key.utf8).write(to: folder.appendingPathComponent("key"), options: .atomic)
        }
        let marker = folder.appendingPathComponent("running")
        let list = folder.appendingPathComponent("crashed")
        var crashed = MeasurementJournal.lines(of: list)
        if let interrupted = MeasurementJournal.lines(of: marker).first {
            if !crashed.contains(interrupted) { crashed.append(interrupted) }
            try Data(crashed.joined(separator: "\n").utf8).write(to: list, options: .atomic)
            try FileManager.default.removeItem(at: marker)
        }
        self.crashed = crashed
    }

    /// What an earlier process noted for a piece; nil if there is nothing, or nothing that can be read.
    public func noted<Value: Decodable>(_ piece: String, as type: Value.Type = Value.self) -> Value? {
        (try? Data(contentsOf: place(of: piece))).flatMap { try? JSONDecoder().decode(type, from: $0) }
    }

    /// The value of a piece: noted earlier, or measured now and noted; nil if the piece is one that crashed. An error is
    /// passed on and is no crash.
    public func piece<Value: Codable & Sendable>(
        _ piece: String, measure: () async throws -> Value
    ) async throws -> Value? {
        if let noted: Value = noted(piece) { return noted }
        if crashed.contains(piece) { return nil }
        let marker = folder.appendingPathComponent("running")
        try Data(piece.utf8).write(to: marker, options: .atomic)
        defer { try? FileManager.default.removeItem(at: marker) }
        let value = try await measure()
        try JSONEncoder().encode(value).write(to: place(of: piece), options: .atomic)
        return value
    }

    /// Forgets everything: the report is complete.
    public func clear() { try? FileManager.default.removeItem(at: folder) }

    private func place(of piece: String) -> URL {
        folder.appendingPathComponent(piece.replacingOccurrences(of: " ", with: "-") + ".json")
    }

    private static func lines(of file: URL) -> [String] {
        let text = (try? String(contentsOf: file, encoding: .utf8)) ?? ""
        return text.split(separator: "\n").map(String.init)
    }
}
