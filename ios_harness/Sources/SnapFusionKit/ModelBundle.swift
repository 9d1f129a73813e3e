import Foundation

/// A bundle on disk: its manifest and files, checked before anything is executed.
public struct ModelBundle: Sendable {
    public let root: URL
    public private(set) var manifest: BundleManifest
    /// Checksum of `manifest.json`, which holds those of all other files.
    public let manifestSHA256: String
    /// Of the packages that were compiled when the app was built, and lie here compiled only.
    public let compiled: CompiledPackages

    /// How much of the files is compared with the manifest.
    public enum Check: String, Sendable, CaseIterable {
        /// SHA-256 of every file; reads all bytes.
        case full
        /// Existence and size.
        case sizes
        /// Only the manifest.
        case none
    }

    /// Opens the bundle at `root`. Links that leave the bundle are refused whatever `check` says.
    ///
    /// - Throws: `BundleError`, with the word that the Python reader gives for the same fault.
    public init(opening root: URL, check: Check = .full) throws {
        let path = root.path
        let manifestPath = path + "/manifest.json"
        let inside = try LinkCheck(root: path)
        guard FileManager.default.isDirectory(path) else {
            let found = FileManager.default.fileExists(atPath: path) ? "a file" : "nothing"
            throw BundleError(.notABundle, "'\(path)' is not a bundle: expected a directory, found \(found).")
        }
        try inside.check("manifest.json")
        guard FileManager.default.fileExists(atPath: manifestPath) else {
            throw BundleError(
                .notABundle,
                "'\(path)' is not a bundle: it has no manifest.json; make one with `sfmobile export SOURCE -o \(path)`."
            )
        }
        let data: Data
        do {
            data = try Data(contentsOf: URL(fileURLWithPath: manifestPath))
        } catch {
            throw BundleError(.missingFile, "'\(manifestPath)' can't be read; copy the bundle anew.")
        }
        self.root = root
        manifest = try BundleManifest(parsing: data, file: manifestPath)
        var digest = SHA256Digest()
        digest.update(data)
        manifestSHA256 = digest.hexadecimal()
        compiled = try CompiledPackages(of: manifest, sha256: manifestSHA256, in: root)
        for (relative, sha256) in compiled.files.sorted(by: { $0.key < $1.key }) {
            let target = try inside.check(relative)
            if check != .none {
                try ModelBundle.compare(path + "/" + relative, at: target, with: nil, sha256, check: check)
            }
        }
        for (relative, record) in manifest.files.sorted(by: { $0.key < $1.key }) where !compiled.replaces(relative) {
            let target = try inside.check(relative)
            if check != .none { 
                try ModelBundle.compare(
                    path + "/" + relative, at: target, with: record.bytes, record.sha256, check: check)
            }
        }
    }

    /// Opens the bundle that was copied into an app when it was built. Throws `BundleError` that says how to put one there.
    public static func embedded(in resources: Foundation.Bundle = .main, check: Check = .full) throws -> ModelBundle {
        guard let url = resources.url(forResource: "ModelBundle", withExtension: nil) else {
            throw BundleError(
                .notABundle,
                "the app holds no bundle: build it with SFBENCH_BUNDLE=/path/to/bundle (see ios_harness/README.md).")
        }
        return try ModelBundle(opening: url, check: check)
    }

    /// `target` is what `path` stands for when its links are followed: attributes are a link's own otherwise.
    private static func compare(
        _ path: String, at target: String, with bytes: Int?, _ sha256: String, check: Check
    ) throws {
        let mend = "export it again or copy the bundle anew"
        let attributes = try? FileManager.default.attributesOfItem(atPath: target)
        guard let size = (attributes?[.size] as? NSNumber)?.intValue, !FileManager.default.isDirectory(target) else {
            throw BundleError(.missingFile, "'\(path)' is missing; \(mend).")
        }
        if let bytes, size != bytes, !PackageListing.says(sha256, path, at: target) {
            let word = size < bytes ? "truncated" : "too long"
            throw BundleError(
                .wrongSize, "'\(path)' is \(word): expected \(bytes) bytes, found \(size); \(mend).")
        }
        guard check == .full else { return }
        let found: String
        do {
            found = try SHA256Digest.file(at: URL(fileURLWithPath: target))
        } catch {
            throw BundleError(.missingFile, "'\(path)' can't be read; \(mend).")
        }
        guard found == sha256 || PackageListing.says(sha256, path, at: target) else {
            throw BundleError(
                .wrongChecksum,
                "'\(path)' has changed: expected SHA-256 \(sha256.prefix(12))…, found \(found.prefix(12))…; \(mend).")
        }
    }

    /// The record of a component. Throws `ComponentError.missing` if the bundle has none.
    public func component(_ name: ComponentName) throws -> ComponentRecord {
        guard let record = manifest.components[name] else { throw ComponentError.missing(name) }
        return record
    }

    /// Where a component's package lies.
    public func package(_ name: ComponentName) throws -> URL {
        root.appendingPathComponent(try component(name).package)
    }

    /// This bundle with the functions for another latent size and guidance batch selected; see `Manifest`.
    public func selecting(latentSize: LatentSize? = nil, guidanceBatch: Int? = nil) throws -> ModelBundle {
        var bundle = self
        bundle.manifest = try manifest.selecting(latentSize: latentSize, guidanceBatch: guidanceBatch)
        return bundle
    }

    /// One golden vector, by name without `.npy`. Throws `BundleError` if the bundle has none of that name.
    public func golden(_ name: String) throws -> NumpyArray {
        let relative = "golden/\(name).npy"
        guard manifest.golden?.files[relative] != nil else {
            throw BundleError(.missingFile, "'\(root.path)' has no golden vector '\(name)'; export it again.")
        }
        return try NumpyArray(contentsOf: root.appendingPathComponent(relative))
    }
}

extension FileManager {
    func isDirectory(_ path: String) -> Bool {
        var directory: ObjCBool = false
        return fileExists(atPath: path, isDirectory: &directory) && directory.boolValue
    }
}

/// Follows links step by step, also where they lead nowhere, to tell whether a path stays inside a directory.
private struct LinkCheck {
    private let root: String
    private let base: [Substring]

    init(root: String) throws {
        self.root = root
        let start = root.hasPrefix("/") ? root : FileManager.default.currentDirectoryPath + "/" + root
        guard let base = LinkCheck.resolve(start) else {
            throw BundleError(.notABundle, "'\(root)' is not a bundle: its links lead in a circle.")
        }
        self.base = base
    }

    /// The path that `relative` stands for.
    @discardableResult
    func check(_ relative: String) throws -> String {
        let start = "/" + base.joined(separator: "/") + "/" + relative
        guard let target = LinkCheck.resolve(start) else {
            throw BundleError(
                .linkOutside, "'\(root)/\(relative)' is a link that leads in a circle; copy the bundle anew.")
        }
        guard target.starts(with: base) else {
            throw BundleError(
                .linkOutside,
                "'\(root)/\(relative)' is a link that leaves the bundle, to '/\(target.joined(separator: "/"))'; "
                    + "copy the bundle anew.")
        }
        return "/" + target.joined(separator: "/")
    }

    /// The parts of the absolute path that `path` stands for, or nil after more than 40 links.
    private static func resolve(_ path: String) -> [Substring]? {
        var pending = Array(path.split(separator: "/").reversed())
        var resolved: [Substring] = []
        var links = 0
        while let part = pending.popLast() {
            if part == "." { continue }
            if part == ".." {
                _ = resolved.popLast()
                continue
            }
            let here = "/" + (resolved + [part]).joined(separator: "/")
            guard let target = try? FileManager.default.destinationOfSymbolicLink(atPath: here) else {
                resolved.append(part)
                continue
            }
            links += 1
            if links > 40 { return nil }
            if target.hasPrefix("/") { resolved = [] }
            pending += target.split(separator: "/").reversed()
        }
        return resolved
    }
}
