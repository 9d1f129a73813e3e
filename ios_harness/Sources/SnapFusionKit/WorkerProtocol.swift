import Foundation

/// The bytes spoken with `python -m sfmobile.runtime.worker`, version 1; that module's docstring is the specification.
enum WorkerProtocol {
    static let version: UInt32 = 1
    static let magic = Data("SFMPIPE\n".utf8)
    static let maxLength = 268_435_456
    static let maxTensors = 64
    static let maxRank = 8

    enum RequestKind: UInt8 {
        case describe = 1
        case load, predict, unload

        var reply: UInt8 { rawValue + 128 }
    }

    static let errorKind: UInt8 = 255

    /// The 12 bytes each side sends first.
    static func hello() -> Data {
        var data = magic
        data.append(littleEndian: version)
        return data
    }

    /// A whole message, length first. Throws `UsageError` if it would be longer than the protocol allows.
    static func frame(kind: UInt8, id: UInt32, body: Data) throws -> Data {
        let length = body.count + 5
        guard length <= maxLength else { throw UsageError("a message of \(length) bytes is longer than \(maxLength).") }
        var data = Data()
        data.append(littleEndian: UInt32(length))
        data.append(kind)
        data.append(littleEndian: id)
        data.append(body)
        return data
    }

    static func encode(string: String, into data: inout Data) throws {
        guard let count = UInt16(exactly: string.utf8.count) else {
            throw UsageError("a string of \(string.utf8.count) bytes is longer than 65,535.")
        }
        data.append(littleEndian: count)
        data.append(contentsOf: string.utf8)
    }

    static func encode(tensors: [String: HostTensor], into data: inout Data) throws {
        data.append(littleEndian: UInt16(tensors.count))
        for (name, tensor) in tensors.sorted(by: { $0.key < $1.key }) {
            try encode(string: name, into: &data)
            switch tensor.elements {
            case .float32: data.append(1)
            case .int32: data.append(2)
            }
            data.append(UInt8(tensor.shape.count))
            for size in tensor.shape { data.append(littleEndian: UInt32(size)) }
            switch tensor.elements {
            case .float32(let values): for value in values { data.append(littleEndian: value.bitPattern) }
            case .int32(let values): for value in values { data.append(littleEndian: value) }
            }
        }
    }

    /// What is wrong with bytes that should be the protocol's.
    struct Malformed: Error {
        let problem: String
    }

    /// Reads a message's body from the front.
    struct Reader {
        private let bytes: [UInt8]
        private var position = 0

        init(_ data: Data) { bytes = [UInt8](data) }

        mutating func take(_ count: Int, of what: String) throws -> ArraySlice<UInt8> {
            guard count >= 0, count <= bytes.count - position else {
                throw Malformed(problem: "\(what) needs \(count) bytes, \(bytes.count - position) are left")
            }
            defer { position += count }
            return bytes[position..<position + count]
        }

        mutating func integer<Value: FixedWidthInteger>(_ type: Value.Type, of what: String) throws -> Value {
            try take(MemoryLayout<Value>.size, of: what).reversed().reduce(0) {
                $0 << 8 | Value(truncatingIfNeeded: $1)
            }
        }

        mutating func double(of what: String) throws -> Double {
            Double(bitPattern: try integer(UInt64.self, of: what))
        }

        mutating func string(of what: String) throws -> String {
            let count = Int(try integer(UInt16.self, of: what))
            guard let text = String(bytes: try take(count, of: what), encoding: .utf8) else {
                throw Malformed(problem: "\(what) is not UTF-8")
            }
            return text
        }

        mutating func tensors() throws -> [String: HostTensor] {
            let count = Int(try integer(UInt16.self, of: "a count of tensors"))
            guard count <= maxTensors else { throw Malformed(problem: "\(count) tensors are more than \(maxTensors)") }
            var tensors: [String: HostTensor] = [:]
            for _ in 0..<count {
                let name = try string(of: "a tensor's name")
                guard tensors[name] == nil else { throw Malformed(problem: "tensor '\(name)' comes twice") }
                tensors[name] = try tensor(name)
            }
            return tensors
        }

        private mutating func tensor(_ name: String) throws -> HostTensor {
            let type = try integer(UInt8.self, of: "the type of '\(name)'")
            let rank = Int(try integer(UInt8.self, of: "the rank of '\(name)'"))
            guard rank <= maxRank else { throw Malformed(problem: "the rank of '\(name)' is \(rank)") }
            let shape = try (0..<rank).map { _ in Int(try integer(UInt32.self, of: "the shape of '\(name)'")) }
            let count = HostTensor.count(of: shape)
            guard count >= 0, count <= maxLength / 4 else {
                throw Malformed(problem: "'\(name)' of shape \(shape) is too large")
            }
            let raw = Array(try take(4 * count, of: "the data of '\(name)'"))
            return try raw.withUnsafeBytes { buffer in
                switch type {
                case 1:
                    return try HostTensor(
                        shape: shape,
                        (0..<count).map {
                            Float(
                                bitPattern: UInt32(littleEndian: buffer.load(fromByteOffset: 4 * $0, as: UInt32.self)))
                        })
                case 2:
                    return try HostTensor(
                        shape: shape,
                        (0..<count).map { Int32(littleEndian: buffer.load(fromByteOffset: 4 * $0, as: Int32.self)) })
                default: throw Malformed(problem: "the type of '\(name)' is \(type)")
                }
            }
        }

        func finish(_ what: String) throws {
            guard position == bytes.count else {
                throw Malformed(problem: "\(what) has \(bytes.count - position) bytes too many")
            }
        }
    }
}
