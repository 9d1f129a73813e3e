import Foundation

/// A NumPy array file (.npy, format 1 to 3): little-endian, C order, of the types golden vectors use.
public struct NumpyArray: Sendable, Equatable {
    public enum Elements: Sendable, Equatable {
        case uint8([UInt8])
        case int32([Int32])
        case int64([Int64])
        case uint64([UInt64])
        /// float16 is widened to float32 on reading.
        case float32([Float])
        case float64([Double])
    }

    public let shape: [Int]
    public let elements: Elements

    public init(shape: [Int], elements: Elements) {
        self.shape = shape
        self.elements = elements
    }

    /// Reads a file. Throws `FileFormatError`.
    public init(contentsOf url: URL) throws {
        let data: Data
        do {
            data = try Data(contentsOf: url)
        } catch {
            throw FileFormatError(file: url.path, problem: "it can't be read")
        }
        try self.init(parsing: data, file: url.path)
    }

    /// Reads the bytes of a file. Throws `FileFormatError` naming `file`.
    public init(parsing data: Data, file: String) throws {
        func problem(_ text: String) -> FileFormatError { FileFormatError(file: file, problem: text) }
        let bytes = [UInt8](data)
        guard bytes.count >= 10, Array(bytes[0..<6]) == NumpyArray.magic else { throw problem("it is no .npy file") }
        let wide = bytes[6] >= 2
        guard (1...3).contains(bytes[6]), !wide || bytes.count >= 12 else {
            throw problem("its .npy version \(bytes[6]) is unknown")
        }
        let lengthBytes = bytes[8..<(wide ? 12 : 10)]
        let headerLength = lengthBytes.reversed().reduce(0) { $0 << 8 | Int($1) }
        let start = 8 + lengthBytes.count + headerLength
        guard bytes.count >= start else { throw problem("its header is truncated") }
        let header = String(decoding: bytes[(8 + lengthBytes.count)..<start], as: UTF8.self)
        guard let descr = NumpyArray.field("descr", of: header),
            let order = NumpyArray.field("fortran_order", of: header),
            let shapeText = NumpyArray.field("shape", of: header)
        else { throw problem("its header lacks a field: \(header)") }
        guard order == "False" else { throw problem("it is in Fortran order") }
        let numbers = shapeText.dropFirst().dropLast().split(separator: ",").map { $0.filter { $0 != " " } }
        let sizes = numbers.filter { !$0.isEmpty }.map { Int($0) }
        let shape = sizes.compactMap { $0 }
        let count = HostTensor.count(of: shape)
        guard shapeText.hasPrefix("("), shape.count == sizes.count, shape.allSatisfy({ $0 >= 0 }), count >= 0 else {
            throw problem("its shape \(shapeText) is no shape")
        }
        let type = descr.filter { $0 != "'" }
        guard let size = NumpyArray.sizes[type] else { throw problem("its type \(type) isn't supported") }
        let (expected, overflow) = count.multipliedReportingOverflow(by: size)
        guard !overflow, bytes.count - start == expected else {
            throw problem("expected \(count) elements of \(size) bytes, found \(bytes.count - start) bytes")
        }
        self.shape = shape
        elements = bytes.withUnsafeBytes { raw in
            func load<Value: FixedWidthInteger>(_ type: Value.Type) -> [Value] {
                (0..<count).map {
                    Value(littleEndian: raw.loadUnaligned(fromByteOffset: start + $0 * size, as: Value.self))
                }
            }
            switch type {
            case "<f2": return .float32(load(UInt16.self).map(HalfFloat.float(fromBits:)))
            case "<f4": return .float32(load(UInt32.self).map(Float.init(bitPattern:)))
            case "<f8": return .float64(load(UInt64.self).map(Double.init(bitPattern:)))
            case "<i4": return .int32(load(Int32.self))
            case "<i8": return .int64(load(Int64.self))
            case "<u8": return .uint64(load(UInt64.self))
            default: return .uint8(Array(bytes[start...]))
            }
        }
    }

    private static let magic: [UInt8] = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]
    private static let sizes = ["<f2": 2, "<f4": 4, "<f8": 8, "<i4": 4, "<i8": 8, "<u8": 8, "|u1": 1]

    /// The text of one entry of the header's dictionary: a quoted string, a word, or a parenthesised list.
    private static func field(_ name: String, of header: String) -> String? {
        guard let key = header.range(of: "'\(name)':") else { return nil }
        let rest = header[key.upperBound...].drop { $0 == " " }
        if rest.hasPrefix("(") {
            return rest.firstIndex(of: ")").map { String(rest[...$0]) }
        }
        return rest.firstIndex { $0 == "," || $0 == "}" }.map { String(rest[..<$0].filter { $0 != " " }) }
    }

    /// The file's bytes (format 1.0), with the data aligned to 64 bytes as NumPy does.
    public func serialized() -> Data {
        var body = Data()
        let type: String
        switch elements {
        case .uint8(let values):
            type = "|u1"
            body.append(contentsOf: values)
        case .int32(let values):
            type = "<i4"
            for value in values { body.append(littleEndian: value) }
        case .int64(let values):
            type = "<i8"
            for value in values { body.append(littleEndian: value) }
        case .uint64(let values):
            type = "<u8"
            for value in values { body.append(littleEndian: value) }
        case .float32(let values):
            type = "<f4"
            for value in values { body.append(littleEndian: value.bitPattern) }
        case .float64(let values):
            type = "<f8"
            for value in values { body.append(littleEndian: value.bitPattern) }
        }
        var header = "{'descr': '\(type)', 'fortran_order': False, 'shape': \(HostTensor.describe(shape)), }"
        let used = NumpyArray.magic.count + 4 + header.utf8.count + 1
        header += String(repeating: " ", count: (64 - used % 64) % 64) + "\n"
        var data = Data(NumpyArray.magic + [1, 0])
        data.append(littleEndian: UInt16(header.utf8.count))
        data.append(contentsOf: header.utf8)
        return data + body
    }

    /// As a tensor; 64-bit elements are narrowed. Throws `UsageError` for integers that don't fit 32 bits.
    public func tensor() throws -> HostTensor {
        switch elements {
        case .uint8(let values): return try HostTensor(shape: shape, values.map(Int32.init))
        case .int32(let values): return try HostTensor(shape: shape, values)
        case .int64(let values):
            let narrow = values.compactMap(Int32.init(exactly:))
            guard narrow.count == values.count else { throw UsageError("an int64 array holds values beyond 32 bits.") }
            return try HostTensor(shape: shape, narrow)
        case .uint64(let values):
            let narrow = values.compactMap(Int32.init(exactly:))
            guard narrow.count == values.count else { throw UsageError("a uint64 array holds values beyond 31 bits.") }
            return try HostTensor(shape: shape, narrow)
        case .float32(let values): return try HostTensor(shape: shape, values)
        case .float64(let values): return try HostTensor(shape: shape, values.map(Float.init))
        }
    }
}

extension Data {
    mutating func append<Value: FixedWidthInteger>(littleEndian value: Value) {
        Swift.withUnsafeBytes(of: value.littleEndian) { append(contentsOf: $0) }
    }

    mutating func append<Value: FixedWidthInteger>(bigEndian value: Value) {
        Swift.withUnsafeBytes(of: value.bigEndian) { append(contentsOf: $0) }
    }
}
