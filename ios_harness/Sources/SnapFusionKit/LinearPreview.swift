/// Cheap previews: an affine map from latent channels to colours, fitted to the model's own decoder with one call.
public struct LinearPreview: Sendable {
    /// (channels + 1) rows of 3 colours; the last row is the bias.
    let weight: [[Double]]

    /// Random patches of latents to show the decoder, and the fit to what it makes of them.
    struct Fitting {
        let record: LatentsRecord
        /// Patches of normal noise, (1, C, H, W).
        let latents: HostTensor

        init(_ record: LatentsRecord, patchesPerSide: Int = 8) throws {
            self.record = record
            let side = min(patchesPerSide, record.height, record.width)
            var generator = TorchGenerator(seed: 0)
            let colours = generator.normal(count: record.channels * side * side)
            var values: [Float] = []
            for channel in 0..<record.channels {
                for row in 0..<record.height {
                    for column in 0..<record.width {
                        let patch = row * side / record.height * side + column * side / record.width
                        values.append(colours[channel * side * side + patch])
                    }
                }
            }
            latents = try HostTensor(shape: record.shape, values)
        }

        /// Least squares over all latent pixels. Throws `UsageError` if the image doesn't fit the latents.
        func solve(image: HostTensor) throws -> LinearPreview {
            let (height, width, factor) = (record.height, record.width, record.pixelsPerLatent)
            guard image.shape == [1, 3, height * factor, width * factor] else {
                let found = HostTensor.describe(image.shape)
                throw UsageError("an image of \(found) doesn't fit latents of \(record.shape).")
            }
            let inputs = latents.floats
            let pixels = image.floats
            let size = record.channels + 1
            var normal = [[Double]](repeating: [Double](repeating: 0, count: size + 3), count: size)
            for row in 0..<height {
                for column in 0..<width {
                    let position = row * width + column
                    let design = (0..<record.channels).map { Double(inputs[$0 * height * width + position]) } + [1]
                    let target = (0..<3).map { channel -> Double in
                        var sum: Float = 0
                        for y in row * factor..<(row + 1) * factor {
                            let start = (channel * height * factor + y) * width * factor + column * factor
                            sum += pixels[start..<start + factor].reduce(0, +)
                        }
                        return Double(min(max(sum / Float(factor * factor), -1), 1))
                    }
                    for i in 0..<size {
                        for j in 0..<size { normal[i][j] += design[i] * design[j] }
                        for j in 0..<3 { normal[i][size + j] += design[i] * target[j] }
                    }
                }
            }
            return LinearPreview(weight: eliminate(&normal, size: size))
        }

        /// Gauss-Jordan elimination of the augmented normal equations; a dependent row gives a weight of 0.
        private func eliminate(_ rows: inout [[Double]], size: Int) -> [[Double]] {
            for pivot in 0..<size {
                let best = (pivot..<size).max { abs(rows[$0][pivot]) < abs(rows[$1][pivot]) } ?? pivot
                rows.swapAt(pivot, best)
                guard abs(rows[pivot][pivot]) > 1e-9 else { continue }
                for other in 0..<size where other != pivot {
                    let factor = rows[other][pivot] / rows[pivot][pivot]
                    for column in pivot..<size + 3 { rows[other][column] -= factor * rows[pivot][column] }
                }
            }
            return (0..<size).map { row in
                let pivot = rows[row][row]
                return (size..<size + 3).map { abs(pivot) > 1e-9 ? rows[row][$0] / pivot : 0 }
            }
        }
    }

    /// A preview of latents (1, C, H, W) at their own resolution; nil for another number of channels.
    func picture(of latents: HostTensor) -> GeneratedPicture? {
        guard latents.shape.count == 4, latents.shape[1] == weight.count - 1 else { return nil }
        let values = latents.floats
        let plane = latents.shape[2] * latents.shape[3]
        var image = [Float](repeating: 0, count: 3 * plane)
        for colour in 0..<3 {
            for position in 0..<plane {
                var value = weight[weight.count - 1][colour]
                for channel in 0..<weight.count - 1 {
                    value += weight[channel][colour] * Double(values[channel * plane + position])
                }
                image[colour * plane + position] = Float(value)
            }
        }
        guard let tensor = try? HostTensor(shape: [1, 3] + latents.shape.suffix(2), image) else { return nil }
        return try? GeneratedPicture(image: tensor)
    }
}
