#if canImport(CoreML)
    import CoreML
    import SnapFusionKit

    extension TensorRecord {
        /// A buffer of the recorded shape and type, contiguous, that a model reads from or writes into.
        func makeBuffer() throws -> MLMultiArray {
            let type: MLMultiArrayDataType =
                switch dtype {
                case .float16: .float16
                case .float32: .float32
                case .int32: .int32
                }
            return try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: type)
        }
    }

    extension MLMultiArray {
        /// Copies a tensor of the same shape in, converted to this array's type. Throws `UsageError` for another shape.
        func write(_ tensor: Tensor) throws {
            guard shape.map(\.intValue) == tensor.shape else {
                throw UsageError("a tensor of \(Tensor.describe(tensor.shape)) doesn't fit an array of \(shape).")
            }
            let type = dataType
            try withUnsafeMutableBytes { bytes, strides in
                let layout = Layout(shape: tensor.shape, strides: strides)
                switch (type, tensor.elements) {
                case (.float16, .float32(let values)):
                    let buffer = bytes.bindMemory(to: UInt16.self)
                    layout.visit { buffer[$1] = halfBits(values[$0]) }
                case (.float32, .float32(let values)):
                    let buffer = bytes.bindMemory(to: Float.self)
                    layout.visit { buffer[$1] = values[$0] }
                case (.int32, .int32(let values)):
                    let buffer = bytes.bindMemory(to: Int32.self)
                    layout.visit { buffer[$1] = values[$0] }
                default: throw UsageError("\(tensor.summary) can't be written into an array of type \(type.rawValue).")
                }
            }
        }

        /// The elements, row-major, as float32 (int32 stays int32). Throws `UsageError` for a type Core ML has but bundles don't.
        func tensor() throws -> Tensor {
            let sizes = shape.map(\.intValue)
            let layout = Layout(shape: sizes, strides: strides.map(\.intValue))
            let type = dataType
            return try withUnsafeBytes { bytes in
                switch type {
                case .float16:
                    let buffer = bytes.bindMemory(to: UInt16.self)
                    return try Tensor(shape: sizes, layout.gather { halfValue(buffer[$0]) })
                case .float32:
                    let buffer = bytes.bindMemory(to: Float.self)
                    return try Tensor(shape: sizes, layout.gather { buffer[$0] })
                case .int32:
                    let buffer = bytes.bindMemory(to: Int32.self)
                    return try Tensor(shape: sizes, layout.gather { buffer[$0] })
                default: throw UsageError("an array of type \(type.rawValue) can't be read.")
                }
            }
        }
    }

    /// Where the elements of a strided array lie. Buffers that Core ML allocates may be padded.
    private struct Layout {
        let shape: [Int]
        let strides: [Int]

        /// Calls `body` with each element's row-major index and its place in the buffer.
        func visit(_ body: (_ index: Int, _ place: Int) -> Void) {
            let last = shape.last ?? 1
            let step = strides.last ?? 1
            let rows = shape.dropLast().reduce(1, *)
            var coordinates = [Int](repeating: 0, count: max(shape.count - 1, 0))
            for row in 0..<rows {
                var place = zip(coordinates, strides).reduce(0) { $0 + $1.0 * $1.1 }
                for index in row * last..<(row + 1) * last {
                    body(index, place)
                    place += step
                }
                for axis in coordinates.indices.reversed() {
                    coordinates[axis] += 1
                    if coordinates[axis] < shape[axis] { break }
                    coordinates[axis] = 0
                }
            }
        }

        func gather<Value>(_ read: (Int) -> Value) -> [Value] {
            let count = shape.reduce(1, *)
            return [Value](unsafeUninitializedCapacity: count) { buffer, initialized in
                visit { buffer.initializeElement(at: $0, to: read($1)) }
                initialized = count
            }
        }
    }

    private func halfBits(_ value: Float) -> UInt16 {
        #if arch(arm64)
            Float16(value).bitPattern
        #else
            Half.bits(of: value)
        #endif
    }

    private func halfValue(_ bits: UInt16) -> Float {
        #if arch(arm64)
            Float(Float16(bitPattern: bits))
        #else
            Half.float(fromBits: bits)
        #endif
    }
#endif
