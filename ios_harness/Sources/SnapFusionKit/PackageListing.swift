import Foundation

/// A package's own `Manifest.json`, which a bundle compares by what it says: coremltools writes it anew whenever it
/// opens and closes a package. The same rule as in `sfmobile/bundle/digest.py`.
enum PackageListing {
    /// Whether `path` names a package's listing.
    static func isListing(_ path: String) -> Bool { path.hasSuffix(".mlpackage/Manifest.json") }

    /// Whether `path` names a package's listing and the file at `target` says what was recorded as `sha256`, in
    /// whatever spelling.
    static func says(_ sha256: String, _ path: String, at target: String) -> Bool {
        guard isListing(path),
            let data = FileManager.default.contents(atPath: target),
            let listing = try? JSONSerialization.jsonObject(with: data) as? [String: Any]
        else { return false }
        return [spelt(listing), spelt(listing, first: listing["rootModelIdentifier"] as? String)].contains { text in
            guard let text else { return false }
            var digest = SHA256Digest()
            digest.update(Data((text + "\n").utf8))
            return digest.hexadecimal() == sha256
        }
    }

    /// The form in which coremltools leaves the file: keys sorted, four spaces. Up to version 0.1.0 of sfmobile the
    /// model's entry, here `first`, came before the others. Nil for what no listing holds.
    private static func spelt(_ value: Any, first: String? = nil, indent: Int = 0) -> String? {
        if let text = value as? String { return quoted(text) }
        guard let object = value as? [String: Any] else { return nil }
        if object.isEmpty { return "{}" }
        let members = object.sorted { one, other in
            (one.key == first) != (other.key == first)
                ? one.key == first : one.key.utf8.lexicographicallyPrecedes(other.key.utf8)
        }
        var lines: [String] = []
        for (key, value) in members {
            guard let name = quoted(key), let inner = spelt(value, first: first, indent: indent + 4) else { return nil }
            lines.append(String(repeating: " ", count: indent + 4) + name + ": " + inner)
        }
        return "{\n" + lines.joined(separator: ",\n") + "\n" + String(repeating: " ", count: indent) + "}"
    }

    private static func quoted(_ text: String) -> String? {
        guard !text.unicodeScalars.contains(where: { $0.value < 0x20 }) else { return nil }
        let escaped = text.replacingOccurrences(of: "\\", with: "\\\\").replacingOccurrences(of: "\"", with: "\\\"")
        return "\"" + escaped + "\""
    }
}
