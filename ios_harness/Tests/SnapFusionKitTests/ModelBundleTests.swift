import SnapFusionKit
import XCTest

final class ModelBundleTests: XCTestCase {
    func testTheSampleOpens() throws {
        let bundle = try ModelBundle(opening: GoldenFiles.sampleBundle())
        XCTAssertEqual(bundle.manifest.name, "sample")
        XCTAssertEqual(Set(bundle.manifest.components.keys), Set(TestBundle.components))
        XCTAssertEqual(try bundle.component(.unet).compression?.bits, 6)
        XCTAssertEqual(try bundle.package(.unet).lastPathComponent, "UNet.mlpackage")
        XCTAssertEqual(try bundle.golden("latents").elements, .float32([0, 1, 2, 3]))
        XCTAssertThrowsError(try bundle.golden("none")) { XCTAssertEqual(($0 as? BundleError)?.reason, .missingFile) }
        var digest = SHA256Digest()
        digest.update(try Data(contentsOf: bundle.root.appendingPathComponent("manifest.json")))
        XCTAssertEqual(bundle.manifestSHA256, digest.hexadecimal())
    }

    func testABundleOfSchemaVersion1IsTheSameBundle() throws {
        let root = try temporaryFolder().appendingPathComponent("bundle")
        try FileManager.default.copyItem(at: GoldenFiles.sampleBundle(), to: root)
        let manifest = root.appendingPathComponent("manifest.json")
        try FileManager.default.removeItem(at: manifest)
        try FileManager.default.copyItem(at: GoldenFiles.versionOneManifest(), to: manifest)
        XCTAssertEqual(
            try ModelBundle(opening: root).manifest, try ModelBundle(opening: GoldenFiles.sampleBundle()).manifest)
    }

    func testEveryDamageThatPythonRefusesIsRefusedForTheSameReason() throws {
        let file = try OrderedJSON(parsing: Data(contentsOf: GoldenFiles.brokenCases()))
        let cases = try XCTUnwrap(file["cases"]?.elements)
        XCTAssertGreaterThan(cases.count, 25)
        for damage in cases {
            let name = try XCTUnwrap(damage["name"]?.text)
            let root = try temporaryFolder().appendingPathComponent("bundle")
            try FileManager.default.copyItem(at: GoldenFiles.sampleBundle(), to: root)
            try Damage(damage).apply(to: root)
            let reason = BundleError.Reason(rawValue: try XCTUnwrap(damage["reason"]?.text))
            XCTAssertThrowsError(try ModelBundle(opening: root), name) {
                XCTAssertEqual(($0 as? BundleError)?.reason, reason, "\(name): \($0)")
            }
            if damage["full_only"] == .bool(true) {
                XCTAssertNoThrow(try ModelBundle(opening: root, check: .sizes), name)
            }
        }
        print("bundles: \(cases.count) kinds of damage refused")
    }

    func testAFileOrNothingIsNoBundle() throws {
        let folder = try temporaryFolder()
        let file = folder.appendingPathComponent("file")
        try Data().write(to: file)
        for url in [file, folder.appendingPathComponent("nothing")] {
            XCTAssertThrowsError(try ModelBundle(opening: url)) {
                XCTAssertEqual(($0 as? BundleError)?.reason, .notABundle)
            }
        }
    }

    func testALinkThatStaysInsideIsFollowed() throws {
        let root = try temporaryFolder().appendingPathComponent("bundle")
        try FileManager.default.copyItem(at: GoldenFiles.sampleBundle(), to: root)
        let vocab = root.appendingPathComponent("tokenizer/vocab.json")
        try FileManager.default.moveItem(at: vocab, to: root.appendingPathComponent("elsewhere.json"))
        try FileManager.default.createSymbolicLink(atPath: vocab.path, withDestinationPath: "../elsewhere.json")
        XCTAssertNoThrow(try ModelBundle(opening: root))
        try FileManager.default.removeItem(at: vocab)
        try FileManager.default.createSymbolicLink(atPath: vocab.path, withDestinationPath: "vocab.json")
        XCTAssertThrowsError(try ModelBundle(opening: root)) {
            XCTAssertEqual(($0 as? BundleError)?.reason, .linkOutside, "a circle leads nowhere")
        }
    }

    func testUnknownAndMistypedKeysAreRefusedWithTheirPlace() throws {
        let data = try Data(contentsOf: GoldenFiles.sampleBundle().appendingPathComponent("manifest.json"))
        let text = String(decoding: data, as: UTF8.self)
        for (old, new, place) in [
            (#""name": "sample""#, #""name": "sample", "colour": 1"#, "colour"),
            (#""channels": 4"#, #""channels": 4.5"#, "latents.channels"),
            (#""clip_sample": false"#, #""clip_sample": 0"#, "sampler.clip_sample"),
            (#""parameters": 7"#, #""parameters": -7"#, "parameters"),
        ] {
            let changed = text.replacingOccurrences(of: old, with: new)
            XCTAssertNotEqual(changed, text, old)
            XCTAssertThrowsError(try BundleManifest(parsing: Data(changed.utf8), file: "manifest.json"), new) {
                XCTAssertEqual(($0 as? BundleError)?.reason, .invalidManifest)
                XCTAssertTrue("\($0)".contains(place), "\($0)")
            }
        }
    }
}

/// One entry of `broken.json`: see its own description.
private struct Damage {
    private let entry: OrderedJSON

    init(_ entry: OrderedJSON) { self.entry = entry }

    private func text(_ key: String) throws -> String { try XCTUnwrap(entry[key]?.text, key) }

    private func integer(_ key: String) throws -> Int {
        guard case .integer(let value)? = entry[key] else { throw UsageError("broken.json: \(key) is no integer") }
        return value
    }

    func apply(to root: URL) throws {
        let operation = try text("op")
        if let pointer = entry["pointer"]?.text {
            try edit(root.appendingPathComponent("manifest.json"), pointer, operation)
            return
        }
        let path = root.appendingPathComponent(try text("path"))
        switch operation {
        case "delete": try FileManager.default.removeItem(at: path)
        case "truncate": try Data(contentsOf: path).prefix(integer("bytes")).write(to: path)
        case "append": try (Data(contentsOf: path) + Data(text("text").utf8)).write(to: path)
        case "flip":
            var data = try Data(contentsOf: path)
            data[try integer("offset")] ^= 0xff
            try data.write(to: path)
        case "write": try Data(text("text").utf8).write(to: path)
        case "link":
            try FileManager.default.removeItem(at: path)
            try FileManager.default.createSymbolicLink(atPath: path.path, withDestinationPath: text("target"))
        default: throw UsageError("broken.json has an op '\(operation)' that isn't known here")
        }
    }

    private func edit(_ file: URL, _ pointer: String, _ operation: String) throws {
        let keys = pointer.split(separator: "/").map {
            $0.replacingOccurrences(of: "~1", with: "/").replacingOccurrences(of: "~0", with: "~")
        }
        let manifest = try OrderedJSON(parsing: Data(contentsOf: file))
        let changed = try manifest.editing(keys[...]) { members, key in
            if operation == "set" && !members.contains(where: { $0.key == key }) {
                members.append(.init(key, try XCTUnwrap(entry["value"])))
                return
            }
            let position = try XCTUnwrap(members.firstIndex { $0.key == key }, pointer)
            switch operation {
            case "set": members[position] = .init(key, try XCTUnwrap(entry["value"]))
            case "remove": members.remove(at: position)
            case "rename_key": members[position] = .init(try text("key"), members[position].value)
            default: throw UsageError("broken.json has an op '\(operation)' that isn't known here")
            }
        }
        try Data(changed.serialized().utf8).write(to: file)
    }
}

extension OrderedJSON {
    /// The value of a key of an object.
    subscript(key: String) -> OrderedJSON? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.key == key }?.value
    }

    var text: String? {
        guard case .string(let text) = self else { return nil }
        return text
    }

    var real: Double? {
        switch self {
        case .number(let number): return number
        case .integer(let integer): return Double(integer)
        default: return nil
        }
    }

    var whole: Int? {
        guard case .integer(let whole) = self else { return nil }
        return whole
    }

    var elements: [OrderedJSON]? {
        guard case .array(let elements) = self else { return nil }
        return elements
    }

    fileprivate func editing(
        _ keys: ArraySlice<String>, _ change: (inout [Member], String) throws -> Void
    ) throws -> OrderedJSON {
        guard case .object(var members) = self, let key = keys.first else { throw UsageError("no object at \(keys)") }
        if keys.count == 1 {
            try change(&members, key)
        } else {
            let position = try XCTUnwrap(members.firstIndex { $0.key == key })
            members[position] = Member(key, try members[position].value.editing(keys.dropFirst(), change))
        }
        return .object(members)
    }
}

/// A package's `Manifest.json` may be spelt anew, by coremltools or anyone; what it says may not change.
final class PackageListingTests: XCTestCase {
    private static let entries = [
        #""c33b": {"author": "com.apple.CoreML", "name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"}"#,
        #""7ca8": {"author": "com.apple.CoreML", "name": "weights", "path": "com.apple.CoreML/weights"}"#,
    ]
    /// As coremltools leaves it, and as sfmobile 0.1.0 wrote it.
    private static let sorted = """
        {
            "fileFormatVersion": "1.0.0",
            "itemInfoEntries": {
                "7ca8": {
                    "author": "com.apple.CoreML",
                    "name": "weights",
                    "path": "com.apple.CoreML/weights"
                },
                "c33b": {
                    "author": "com.apple.CoreML",
                    "name": "model.mlmodel",
                    "path": "com.apple.CoreML/model.mlmodel"
                }
            },
            "rootModelIdentifier": "c33b"
        }

        """
    private static let modelFirst = """
        {
            "fileFormatVersion": "1.0.0",
            "itemInfoEntries": {
                "c33b": {
                    "author": "com.apple.CoreML",
                    "name": "model.mlmodel",
                    "path": "com.apple.CoreML/model.mlmodel"
                },
                "7ca8": {
                    "author": "com.apple.CoreML",
                    "name": "weights",
                    "path": "com.apple.CoreML/weights"
                }
            },
            "rootModelIdentifier": "c33b"
        }

        """

    /// The sample bundle with `recorded` as the listing of its UNet, and `found` in its place on disk.
    private func bundle(recorded: String, found: String) throws -> URL {
        let root = try temporaryFolder().appendingPathComponent("bundle")
        try FileManager.default.copyItem(at: GoldenFiles.sampleBundle(), to: root)
        var digest = SHA256Digest()
        digest.update(Data(recorded.utf8))
        let manifest = root.appendingPathComponent("manifest.json")
        let text = try String(contentsOf: manifest, encoding: .utf8)
        let record = #"("UNet\.mlpackage/Manifest\.json": \{\s*"bytes": )\d+(,\s*"sha256": ")[0-9a-f]+"#
        let changed = text.replacingOccurrences(
            of: record, with: "$1\(recorded.utf8.count)$2\(digest.hexadecimal())", options: .regularExpression)
        XCTAssertNotEqual(text, changed)
        try Data(changed.utf8).write(to: manifest)
        try Data(found.utf8).write(to: root.appendingPathComponent("UNet.mlpackage/Manifest.json"))
        return root
    }

    func testAnotherSpellingOfWhatWasRecordedWillDo() throws {
        let compact =
            #"{"rootModelIdentifier": "c33b", "itemInfoEntries": {"#
            + Self.entries.joined(separator: ",") + #"}, "fileFormatVersion": "1.0.0"}"#
        let escaped = Self.sorted.replacingOccurrences(of: "/", with: "\\/")
        for recorded in [Self.sorted, Self.modelFirst] {
            for found in [Self.sorted, Self.modelFirst, compact, escaped] {
                for check in [ModelBundle.Check.full, .sizes] {
                    XCTAssertNoThrow(
                        try ModelBundle(opening: bundle(recorded: recorded, found: found), check: check), found)
                }
            }
        }
    }

    func testAnotherContentIsRefused() throws {
        for (found, reason) in [
            (Self.sorted.replacingOccurrences(of: "weights", with: "Weights"), BundleError.Reason.wrongChecksum),
            (Self.sorted.replacingOccurrences(of: #""1.0.0""#, with: "1.00000"), .wrongChecksum),
            (Self.sorted.replacingOccurrences(of: "model.mlmodel", with: "another.mlmodel"), .wrongSize),
            (String(Self.sorted.dropLast(9)), .wrongSize),
        ] {
            XCTAssertThrowsError(try ModelBundle(opening: bundle(recorded: Self.sorted, found: found)), found) {
                XCTAssertEqual(($0 as? BundleError)?.reason, reason, "\($0)")
            }
        }
    }
}
