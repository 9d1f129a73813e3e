import Foundation

/// Where a bundle's files come from: a server, or a test.
public protocol BundleSource: Sendable {
    /// Gives the bytes of one file of the bundle to `sink`, from `offset` on, or from its beginning if the source can't
    /// begin in the midst of it. Throws what goes wrong; what the sink throws ends the transfer and is passed on.
    func fetch(_ path: String, from offset: Int, into sink: any DownloadSink) async throws
}

/// Takes the bytes of one file as they come, one call at a time.
public protocol DownloadSink: Sendable {
    /// Where in the file the bytes begin. Called once, before any.
    func begin(at offset: Int) throws
    func write(_ bytes: Data) throws
}

/// A download that can't go on.
public enum DownloadError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The source refused: a status other than 200 and 206, say.
    case refused(path: String, String)
    /// It broke off, as often as was tried.
    case brokeOff(path: String, attempts: Int, String)
    /// A file stays other than the manifest says, fetched whole from the beginning.
    case corrupt(path: String, expected: String, found: String)

    public var description: String {
        switch self {
        case .refused(let path, let reason): "'\(path)' can't be fetched: \(reason)."
        case .brokeOff(let path, let attempts, let reason):
            "'\(path)' broke off \(attempts) times (\(reason)); try again later, what has come is kept."
        case .corrupt(let path, let expected, let found):
            "'\(path)' isn't what the manifest says: expected \(expected), found \(found); "
                + "the copy on the server is damaged."
        }
    }
}

/// Fetches a bundle, file by file, checking each against the manifest, and puts it in place whole or not at all.
///
/// What has come lies beside the destination, in a folder of the same name with `.download`: the next attempt, of this
/// process or another, goes on from there. The manifest is always fetched anew.
public struct BundleDownloader: Sendable {
    /// How far a download is.
    public struct Progress: Sendable, Equatable {
        /// Bytes of all files that are there, of those the manifest names.
        public var bytes: Int
        public var total: Int
        public var path: String

        public init(bytes: Int, total: Int, path: String) {
            self.bytes = bytes
            self.total = total
            self.path = path
        }
    }

    public let source: any BundleSource
    /// Transfers of one file that may break off, one after the other, without a byte more than before.
    public var attempts = 4
    /// Seconds before the next attempt, doubled each time.
    public var pause = 1.0
    /// The manifest's own checksum, if it is known from elsewhere: it holds those of all files.
    public var manifestSHA256: String?

    private static let mostManifestBytes = 64 << 20
    private static let mostListingBytes = 1 << 20

    public init(source: any BundleSource, manifestSHA256: String? = nil) {
        self.source = source
        self.manifestSHA256 = manifestSHA256
    }

    /// Fetches the bundle to `destination`, which must not exist, or be that very bundle. Throws `DownloadError`, or
    /// `BundleError` for a manifest that is none.
    public func download(
        to destination: URL, progress: @escaping @Sendable (Progress) -> Void = { _ in }
    ) async throws -> ModelBundle {
        let files = FileManager.default
        if files.fileExists(atPath: destination.path) {
            let bundle = try ModelBundle(opening: destination, check: .sizes)
            if manifestSHA256 == nil || manifestSHA256 == bundle.manifestSHA256 { return bundle }
            throw BundleError(
                .wrongChecksum, "'\(destination.path)' is another bundle than the one asked for; take it away first.")
        }
        let staging = destination.deletingLastPathComponent()
            .appendingPathComponent(destination.lastPathComponent + ".download")
        try files.createDirectory(at: staging, withIntermediateDirectories: true)
        let manifest = try await fetchManifest(into: staging)
        let records = manifest.files.sorted { $0.key < $1.key }
        let total = records.reduce(0) { $0 + $1.value.bytes }
        var done = 0
        for (path, record) in records {
            let before = done
            try await fetch(path, record, into: staging) { bytes in
                progress(Progress(bytes: before + bytes, total: total, path: path))
            }
            done += record.bytes
        }
        let bundle = try ModelBundle(opening: staging, check: .sizes)
        try files.moveItem(at: staging, to: destination)
        progress(Progress(bytes: total, total: total, path: "manifest.json"))
        return try ModelBundle(opening: destination, check: bundle.manifest.files.isEmpty ? .none : .sizes)
    }

    private func fetchManifest(into staging: URL) async throws -> BundleManifest {
        let file = staging.appendingPathComponent("manifest.json")
        try? FileManager.default.removeItem(at: file)
        let part = PartialFile(at: partial(of: file), limit: BundleDownloader.mostManifestBytes) { _ in }
        part.discard()
        try await transfer("manifest.json", into: part)
        let data = try Data(contentsOf: part.url)
        if let expected = manifestSHA256 {
            let found = try SHA256Digest.file(at: part.url)
            guard found == expected else {
                throw DownloadError.corrupt(path: "manifest.json", expected: expected, found: found)
            }
        }
        let manifest = try BundleManifest(parsing: data, file: file.path)
        try FileManager.default.moveItem(at: part.url, to: file)
        return manifest
    }

    /// One file: what is there already is checked, what isn't is fetched; a file that comes out wrong once is fetched again.
    private func fetch(
        _ path: String, _ record: FileRecord, into staging: URL, progress: @escaping @Sendable (Int) -> Void
    ) async throws {
        let file = staging.appendingPathComponent(path)
        if try differs(file, from: record) == nil || PackageListing.says(record.sha256, path, at: file.path) {
            return progress(record.bytes)
        }
        try? FileManager.default.removeItem(at: file)
        try FileManager.default.createDirectory(
            at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
        // A package's listing counts by what it says: on the server it may be spelt, and as long, as it likes.
        let isListing = PackageListing.isListing(path)
        let limit = isListing ? BundleDownloader.mostListingBytes : record.bytes
        let part = PartialFile(at: partial(of: file), limit: limit, progress: progress)
        if isListing { part.discard() }
        for isLast in [false, true] {
            // A whole file that is wrong can't be gone on with.
            if part.count >= record.bytes, try differs(part.url, from: record) != nil { part.discard() }
            if record.bytes == 0 { try part.begin(at: 0) }
            if part.count < record.bytes || isListing {
                try await transfer(path, into: part, until: isListing ? nil : record.bytes)
            }
            if isListing, PackageListing.says(record.sha256, path, at: part.url.path) { break }
            guard let found = try differs(part.url, from: record) else { break }
            part.discard()
            if isLast {
                throw DownloadError.corrupt(
                    path: path, expected: "\(record.bytes) bytes, SHA-256 \(record.sha256.prefix(12))…", found: found)
            }
        }
        try FileManager.default.moveItem(at: part.url, to: file)
    }

    /// Transfers until the source has given everything, going on where it breaks off.
    private func transfer(_ path: String, into part: PartialFile, until bytes: Int? = nil) async throws {
        var failures = 0
        while true {
            try Task.checkCancellation()
            let before = part.count
            var reason = "it ended early"
            do {
                try await source.fetch(path, from: before, into: part)
                if bytes.map({ part.count >= $0 }) ?? true { return }
            } catch let error as DownloadError {
                throw error
            } catch is PartialFile.TooLong {
                throw DownloadError.corrupt(
                    path: path, expected: "\(part.limit) bytes", found: "more")
            } catch {
                try Task.checkCancellation()
                reason = error.localizedDescription
            }
            failures = part.count > before ? 1 : failures + 1
            guard failures < attempts else {
                throw DownloadError.brokeOff(path: path, attempts: failures, reason)
            }
            if pause > 0 { try await Task.sleep(for: .seconds(pause * Double(1 << (failures - 1)))) }
        }
    }

    /// How a file differs from its record, in words; nil if it doesn't.
    private func differs(_ file: URL, from record: FileRecord) throws -> String? {
        let attributes = try? FileManager.default.attributesOfItem(atPath: file.path)
        guard let size = (attributes?[.size] as? NSNumber)?.intValue else { return "no file" }
        guard size == record.bytes else { return "\(size) bytes" }
        let found = try SHA256Digest.file(at: file)
        return found == record.sha256 ? nil : "SHA-256 \(found.prefix(12))…"
    }

    private func partial(of file: URL) -> URL {
        file.deletingLastPathComponent().appendingPathComponent(file.lastPathComponent + ".part")
    }
}

/// The bytes of one file that have come so far, on disk.
private final class PartialFile: DownloadSink, @unchecked Sendable {
    struct TooLong: Error {}

    let url: URL
    let limit: Int
    private let progress: @Sendable (Int) -> Void
    // Calls come one at a time: the downloader looks only between transfers.
    private var handle: FileHandle?

    init(at url: URL, limit: Int, progress: @escaping @Sendable (Int) -> Void) {
        self.url = url
        self.limit = limit
        self.progress = progress
    }

    var count: Int {
        let attributes = try? FileManager.default.attributesOfItem(atPath: url.path)
        return (attributes?[.size] as? NSNumber)?.intValue ?? 0
    }

    func discard() {
        handle = nil
        try? FileManager.default.removeItem(at: url)
    }

    func begin(at offset: Int) throws {
        try? handle?.close()
        if !FileManager.default.fileExists(atPath: url.path) {
            guard FileManager.default.createFile(atPath: url.path, contents: nil) else {
                throw UsageError("'\(url.path)' can't be made; choose another place.")
            }
        }
        let opened = try FileHandle(forWritingTo: url)
        try opened.truncate(atOffset: UInt64(offset))
        try opened.seek(toOffset: UInt64(offset))
        handle = opened
    }

    func write(_ bytes: Data) throws {
        guard let handle else { throw UsageError("'\(url.path)' got bytes before it began.") }
        try handle.write(contentsOf: bytes)
        let count = Int(try handle.offset())
        guard count <= limit else { throw TooLong() }
        progress(count)
    }
}
