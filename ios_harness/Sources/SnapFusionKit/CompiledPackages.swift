import Foundation

/// The packages of a bundle that Xcode's compiler has turned into .mlmodelc when an app was built: they stand in for the
/// .mlpackage, which isn't in the app then, so that no weight is stored twice.
///
/// `compiled.sha256` beside the manifest lists their files as `shasum` does; its first line names the manifest.
public struct CompiledPackages: Sendable, Equatable {
    /// Checksums by path in the bundle.
    public let files: [String: String]
    private let packages: Set<String>

    static let list = "compiled.sha256"

    init(of manifest: BundleManifest, sha256: String, in root: URL) throws {
        let path = root.appendingPathComponent(CompiledPackages.list).path
        guard let data = FileManager.default.contents(atPath: path) else {
            (files, packages) = ([:], [])
            return
        }
        let lines = String(decoding: data, as: UTF8.self).split(separator: "\n")
        guard lines.first == "# manifest \(sha256)" else {
            throw BundleError(
                .wrongChecksum, "'\(path)' is of another manifest than the one beside it; build the app again.")
        }
        var files: [String: String] = [:]
        for line in lines.dropFirst() {
            // "<64 digits>  <path>": two spaces, or a space and an asterisk.
            let (digest, name) = (line.prefix(64), line.dropFirst(66))
            let parts = name.split(separator: "/", omittingEmptySubsequences: false)
            guard digest.count == 64, !name.isEmpty, !parts.contains(""), !parts.contains("..") else {
                throw BundleError(.invalidManifest, "'\(path)' has a line that is no checksum; build the app again.")
            }
            files[String(name)] = String(digest)
        }
        self.files = files
        let parts = manifest.components.values.flatMap(\.parts)
        packages = Set(
            parts.map(\.package).filter { package in
                files.keys.contains { $0.hasPrefix(CompiledPackages.name(of: package) + "/") }
            })
    }

    /// Where the compiled form of a package lies in the bundle; nil if it isn't there.
    public func path(of package: String) -> String? {
        packages.contains(package) ? CompiledPackages.name(of: package) : nil
    }

    /// Whether a file of the manifest is one of a package that is there compiled instead.
    func replaces(_ file: String) -> Bool { packages.contains { file.hasPrefix($0 + "/") } }

    /// "UNet.mlpackage" to "UNet.mlmodelc"
    static func name(of package: String) -> String {
        let suffix = ".mlpackage"
        return (package.hasSuffix(suffix) ? String(package.dropLast(suffix.count)) : package) + ".mlmodelc"
    }
}
