#if canImport(CoreML)
    import CoreML
    import CoreVideo
    import SnapFusionKit

    /// An array that a model reads from or writes into, and what is known of its memory.
    struct ModelBuffer {
        let array: MLMultiArray
        /// Whether the array lies in an IOSurface, which the Neural Engine and the GPU use without a copy.
        let isShared: Bool
        /// Whether a prediction answered with this very array, which it was given for the purpose.
        private(set) var isBacking = false

        /// An array of the recorded shape and type: in an IOSurface if that is wanted, it is fp16, and one of that size can
        /// be had; else in ordinary memory. Which one it became is reported, not relied on.
        init(_ record: TensorRecord, shared: Bool) throws {
            if shared, record.dtype == .float16, let array = ModelBuffer.sharedArray(record.shape) {
                self.array = array
                isShared = true
            } else {
                let type: MLMultiArrayDataType =
                    switch record.dtype {
                    case .float16: .float16
                    case .float32: .float32
                    case .int32: .int32
                    }
                array = try MLMultiArray(shape: record.shape.map { NSNumber(value: $0) }, dataType: type)
                isShared = false
            }
        }

        /// One that Core ML made itself.
        init(_ array: MLMultiArray) {
            self.array = array
            isShared = array.pixelBuffer != nil
        }

        var asBacking: ModelBuffer {
            var buffer = self
            buffer.isBacking = true
            return buffer
        }

        /// The last axis is the width of the pixel buffer, all others together are its height; rows may be padded. Nil where
        /// the system has no surface of that size.
        private static func sharedArray(_ shape: [Int]) -> MLMultiArray? {
            guard let width = shape.last, width > 0 else { return nil }
            let height = shape.dropLast().reduce(1, *)
            let attributes = [kCVPixelBufferIOSurfacePropertiesKey as String: [String: Any]()] as CFDictionary
            var buffer: CVPixelBuffer?
            let status = CVPixelBufferCreate(
                kCFAllocatorDefault, width, height, kCVPixelFormatType_OneComponent16Half, attributes, &buffer)
            guard status == kCVReturnSuccess, let buffer else { return nil }
            return MLMultiArray(pixelBuffer: buffer, shape: shape.map { NSNumber(value: $0) })
        }
    }

    extension MLMultiArray {
        /// Copies a tensor of the same shape in, converted to this array's type. Throws `UsageError` for another shape.
        func write(_ tensor: HostTensor) throws {
            guard shape.map(\.intValue) == tensor.shape else {
                throw UsageError("a tensor of \(HostTensor.describe(tensor.shape)) doesn't fit an array of \(shape).")
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
        func tensor() throws -> HostTensor {
            let sizes = shape.map(\.intValue)
            let layout = Layout(shape: sizes, strides: strides.map(\.intValue))
            let type = dataType
            return try withUnsafeBytes { bytes in
                switch type {
                case .float16:
                    let buffer = bytes.bindMemory(to: UInt16.self)
                    return try HostTensor(shape: sizes, layout.gather { halfValue(buffer[$0]) })
                case .float32:
                    let buffer = bytes.bindMemory(to: Float.self)
                    return try HostTensor(shape: sizes, layout.gather { buffer[$0] })
                case .int32:
                    let buffer = bytes.bindMemory(to: Int32.self)
                    return try HostTensor(shape: sizes, layout.gather { buffer[$0] })
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
            HalfFloat.bits(of: value)
        #endif
    }

    private func halfValue(_ bits: UInt16) -> Float {
        #if arch(arm64)
            Float(Float16(bitPattern: bits))
        #else
            HalfFloat.float(fromBits: bits)
        #endif
    }
#endif
