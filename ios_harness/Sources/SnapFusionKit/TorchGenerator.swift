import Foundation

/// Torch's CPU random generator: MT19937 and `torch.randn` of float32, bit for bit as torch's x86 build with AVX2.
///
/// Torch fills 16 values or more with a vectorised Box-Muller transform on Cephes' single-precision logarithm, sine
/// and cosine (`normal_fill` in ATen/native/cpu/DistributionTemplates.h), whose multiplications and additions its
/// compiler fuses; the fused operations are written out here, so that every processor gives the same bits. Fewer
/// than 16 values take a double-precision path that keeps the second value of each pair for the next call.
public struct TorchGenerator: Sendable {
    private var engine: MersenneTwister
    private var cachedNormal: Double?

    /// As `torch.Generator().manual_seed(seed)`: torch keeps the low 32 bits.
    public init(seed: UInt64) { engine = MersenneTwister(seed: UInt32(truncatingIfNeeded: seed)) }

    /// `count` normal values, as `torch.randn(count, generator=...)` draws them.
    public mutating func normal(count: Int) -> [Float] {
        if count < 16 { return (0..<max(count, 0)).map { _ in Float(nextNormal()) } }
        var values = (0..<count).map { _ in uniform() }
        for start in stride(from: 0, through: count - 16, by: 16) { transform(&values, at: start) }
        if count % 16 != 0 {
            // The last 16 are drawn anew, over values that the loop above has already made.
            for index in (count - 16)..<count { values[index] = uniform() }
            transform(&values, at: count - 16)
        }
        return values
    }

    /// In [0, 1), 24 bits.
    private mutating func uniform() -> Float { Float(engine.next() & 0xff_ffff) * 0x1p-24 }

    /// In [0, 1), 53 bits.
    private mutating func uniformDouble() -> Double {
        let high = UInt64(engine.next())
        let low = UInt64(engine.next())
        return Double((high << 32 | low) & ((1 << 53) - 1)) * 0x1p-53
    }

    private mutating func nextNormal() -> Double {
        if let cached = cachedNormal {
            cachedNormal = nil
            return cached
        }
        let u1 = uniformDouble()
        let u2 = uniformDouble()
        let radius = (-2 * log1p(-u2)).squareRoot()
        let theta = 2 * Double.pi * u1
        cachedNormal = radius * sin(theta)
        return radius * cos(theta)
    }

    private func transform(_ values: inout [Float], at start: Int) {
        for index in start..<(start + 8) {
            let radius = (-2 * Cephes.log(1 - values[index])).squareRoot()
            let (sine, cosine) = Cephes.sincos(Float(2 * Double.pi) * values[index + 8])
            values[index] = radius * cosine + 0
            values[index + 8] = radius * sine + 0
        }
    }
}

/// MT19937 (Matsumoto and Nishimura 1998).
struct MersenneTwister: Sendable {
    private var state: [UInt32]
    private var position = 624

    init(seed: UInt32) {
        state = [seed]
        state.reserveCapacity(624)
        for index in 1..<624 {
            let previous = state[index - 1]
            state.append(1_812_433_253 &* (previous ^ (previous >> 30)) &+ UInt32(index))
        }
    }

    mutating func next() -> UInt32 {
        if position == 624 { refill() }
        var word = state[position]
        position += 1
        word ^= word >> 11
        word ^= (word << 7) & 0x9d2c_5680
        word ^= (word << 15) & 0xefc6_0000
        return word ^ (word >> 18)
    }

    private mutating func refill() {
        for index in 0..<624 {
            let mixed = (state[index] & 0x8000_0000) | (state[(index + 1) % 624] & 0x7fff_ffff)
            state[index] = state[(index + 397) % 624] ^ (mixed >> 1) ^ (mixed & 1 == 0 ? 0 : 0x9908_b0df)
        }
        position = 0
    }
}

/// Cephes' single-precision functions with fused multiply-adds, in the order torch's build evaluates them.
enum Cephes {
    /// Natural logarithm of a positive normal number.
    static func log(_ argument: Float) -> Float {
        let bits = max(argument, .leastNormalMagnitude).bitPattern
        var exponent = Float(Int32(bits >> 23) - 127) + 1
        var x = Float(bitPattern: (bits & 0x807f_ffff) | 0x3f00_0000)
        if x < 0.707106781186547524 {
            exponent -= 1
            x = (x - 1) + x
        } else {
            x -= 1
        }
        let z = x * x
        var y: Float = 7.0376836292E-2
        for coefficient in logarithm { y = fma(y, x, coefficient) }
        y = fma(y * x, z, exponent * -2.12194440e-4)
        y = fma(-z, 0.5, y)
        return fma(exponent, 0.693359375, x + y)
    }

    /// Sine and cosine of a number of moderate size, not negative.
    static func sincos(_ argument: Float) -> (sine: Float, cosine: Float) {
        let octant = (Int32(argument * 1.27323954473516) + 1) & ~1
        let y = Float(octant)
        var x = fma(y, -0.78515625, argument)
        x = fma(y, -2.4187564849853515625e-4, x)
        x = fma(y, -3.77489497744594108e-8, x)
        let z = x * x
        var even: Float = 2.443315711809948E-005
        even = fma(even, z, -1.388731625493765E-003)
        even = fma(even, z, 4.166664568298827E-002)
        even = fma(even * z, z, -(z * 0.5)) + 1
        var odd: Float = -1.9515295891E-4
        odd = fma(odd, z, 8.3321608736E-3)
        odd = fma(odd, z, -1.6666654611E-1)
        odd = fma(x, odd * z, x)
        let swapped = octant & 2 != 0
        let sine = swapped ? even : odd
        let cosine = swapped ? odd : even
        return (octant & 4 == 0 ? sine : -sine, (octant - 2) & 4 != 0 ? cosine : -cosine)
    }

    private static let logarithm: [Float] = [
        -1.1514610310E-1, 1.1676998740E-1, -1.2420140846E-1, 1.4249322787E-1, -1.6668057665E-1, 2.0000714765E-1,
        -2.4999993993E-1, 3.3333331174E-1,
    ]

    private static func fma(_ a: Float, _ b: Float, _ c: Float) -> Float { c.addingProduct(a, b) }
}
