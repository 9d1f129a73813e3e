/// A dense array, row-major. A reference, so that an engine can recognise an input it has already converted.
public final class HostTensor: Sendable {
    public enum Elements: Sendable, Equatable {
        case float32([Float])
        case int32([Int32])

        public var count: Int {
            switch self {
            case .float32(let values): values.count
            case .int32(let values): values.count
            }
        }
    }

    public let shape: [Int]
    public let elements: Elements

    /// Throws `UsageError` if the shape and the number of elements disagree.
    public init(shape: [Int], elements: Elements) throws {
        guard shape.allSatisfy({ $0 >= 0 }), HostTensor.count(of: shape) == elements.count else {
            throw UsageError("a tensor of shape \(shape) can't hold \(elements.count) elements.")
        }
        self.shape = shape
        self.elements = elements
    }

    public convenience init(shape: [Int], _ values: [Float]) throws {
        try self.init(shape: shape, elements: .float32(values))
    }

    public convenience init(shape: [Int], _ values: [Int32]) throws {
        try self.init(shape: shape, elements: .int32(values))
    }

    /// Number of elements of a shape; -1 if it doesn't fit an Int.
    public static func count(of shape: [Int]) -> Int {
        var count = 1
        for size in shape {
            let (product, overflow) = count.multipliedReportingOverflow(by: size)
            if overflow { return -1 }
            count = product
        }
        return count
    }

    public var count: Int { elements.count }

    /// The elements as floats; integers are converted.
    public var floats: [Float] {
        switch elements {
        case .float32(let values): values
        case .int32(let values): values.map(Float.init)
        }
    }

    /// How many elements are NaN or infinite.
    public var nonFiniteCount: Int {
        guard case .float32(let values) = elements else { return 0 }
        return values.reduce(0) { $1.isFinite ? $0 : $0 + 1 }
    }

    /// The same elements in another shape.
    public func reshaped(_ shape: [Int]) throws -> HostTensor { try HostTensor(shape: shape, elements: elements) }

    /// Several tensors of one shape, stacked along their first axis.
    public static func concatenating(_ tensors: [HostTensor]) throws -> HostTensor {
        guard let first = tensors.first, let batch = first.shape.first,
            tensors.allSatisfy({ $0.shape == first.shape })
        else { throw UsageError("only tensors of one shape can be stacked: \(tensors.map(\.shape)).") }
        return try HostTensor(
            shape: [batch * tensors.count] + first.shape.dropFirst(), tensors.flatMap(\.floats))
    }

    /// Two tensors (B, C, H, W) that differ in their channels alone, those of `second` behind those of `first`.
    public static func joining(_ first: HostTensor, _ second: HostTensor) throws -> HostTensor {
        let (a, b) = (first.shape, second.shape)
        guard a.count == 4, b.count == 4, a[0] == b[0], a[2...] == b[2...] else {
            throw UsageError("channels of \(describe(a)) and \(describe(b)) can't be joined.")
        }
        let (ones, others) = (first.floats, second.floats)
        let (one, other) = (ones.count / max(a[0], 1), others.count / max(a[0], 1))
        var joined: [Float] = []
        joined.reserveCapacity(ones.count + others.count)
        for row in 0..<a[0] {
            joined += ones[row * one..<(row + 1) * one]
            joined += others[row * other..<(row + 1) * other]
        }
        return try HostTensor(shape: [a[0], a[1] + b[1], a[2], a[3]], joined)
    }

    /// The `count` equal parts of this tensor along its first axis.
    public func split(into count: Int) throws -> [HostTensor] {
        guard count > 0, let batch = shape.first, batch % count == 0 else {
            throw UsageError("a tensor of shape \(shape) can't be split into \(count) equal parts.")
        }
        let values = floats
        let size = values.count / count
        return try (0..<count).map {
            try HostTensor(shape: [batch / count] + shape.dropFirst(), Array(values[$0 * size..<($0 + 1) * size]))
        }
    }

    /// "float32 (1, 4, 8, 8)"
    public var summary: String {
        switch elements {
        case .float32: "float32 \(HostTensor.describe(shape))"
        case .int32: "int32 \(HostTensor.describe(shape))"
        }
    }

    /// A shape as Python writes it.
    public static func describe(_ shape: [Int]) -> String {
        "(" + shape.map(String.init).joined(separator: ", ") + (shape.count == 1 ? ",)" : ")")
    }
}
