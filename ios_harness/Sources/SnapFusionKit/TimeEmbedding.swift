import Foundation

/// The sinusoidal embedding of a timestep or a guidance scale, computed on the host: in fp16 inside the graph it would lose its precision.
///
/// Exponents, frequencies and angles are float32, as torch has them; each function is evaluated in double precision and
/// rounded once, so that every processor gives the same numbers.
public struct TimeEmbedding: Sendable {
    public let record: TimeEmbeddingRecord
    private let frequencies: [Float]

    /// Throws `UsageError` if the dimension is odd.
    public init(_ record: TimeEmbeddingRecord) throws {
        let half = record.dimension / 2
        guard record.dimension > 0, record.dimension % 2 == 0 else {
            throw UsageError("a time embedding of \(record.dimension) values has no two halves; use an even dimension.")
        }
        self.record = record
        let scale = Float(-Foundation.log(record.maxPeriod))
        let divisor = Float(Double(half) - record.frequencyShift)
        frequencies = (0..<half).map { Float(Foundation.exp(Double(scale * Float($0) / divisor))) }
    }

    /// The embedding of a guidance scale as a UNet takes it that was distilled with it (arXiv 2310.04378, section 4.3):
    /// the sinusoid of 1000 times (scale - 1), sines first. Shape (1, dimension, 1, 1).
    public static func guidance(scale: Double, dimension: Int) throws -> HostTensor {
        let record = TimeEmbeddingRecord(dimension: dimension, flipSinToCos: false, frequencyShift: 1)
        return try TimeEmbedding(record).embedding(of: Float(scale - 1) * 1000, batch: 1)
    }

    /// `batch` copies of a timestep's embedding, shape (batch, dimension, 1, 1).
    public func callAsFunction(timestep: Float, batch: Int) throws -> HostTensor {
        try embedding(of: timestep, batch: batch)
    }

    private func embedding(of value: Float, batch: Int) throws -> HostTensor {
        let angles = frequencies.map { value * $0 }
        let sines = angles.map { Float(Foundation.sin(Double($0))) }
        let cosines = angles.map { Float(Foundation.cos(Double($0))) }
        let row = record.flipSinToCos ? cosines + sines : sines + cosines
        return try HostTensor(shape: [batch, record.dimension, 1, 1], Array(repeatElement(row, count: batch).joined()))
    }
}
