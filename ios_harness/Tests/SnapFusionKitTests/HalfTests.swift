import SnapFusionKit
import XCTest

#if !(os(macOS) && arch(x86_64))
    final class HalfTests: XCTestCase {
        func testEveryHalfEqualsTheProcessors() {
            for bits in UInt16.min...UInt16.max {
                let expected = Float(Float16(bitPattern: bits))
                let found = HalfFloat.float(fromBits: bits)
                if expected.isNaN {
                    XCTAssertTrue(found.isNaN)
                } else {
                    XCTAssertEqual(found.bitPattern, expected.bitPattern)
                }
            }
        }

        func testRoundingEqualsTheProcessors() {
            var state: UInt32 = 1
            var samples: [Float] = [
                0, -0.0, 65504, 65519.99, 65520, -65520, 1e9, .infinity, -.infinity, 0x1p-24, 0x1p-25, 0x1.8p-25,
            ]
            for bits in stride(from: UInt16(0), to: 0x7c00, by: 7) {
                // Ties between neighbours, and just beside them.
                let middle = (HalfFloat.float(fromBits: bits) + HalfFloat.float(fromBits: bits + 1)) / 2
                samples += [middle, middle.nextUp, middle.nextDown, -middle]
            }
            for _ in 0..<20000 {
                state = state &* 1_664_525 &+ 1_013_904_223
                samples.append(Float(bitPattern: state))
            }
            for sample in samples {
                let expected = Float16(sample)
                if expected.isNaN {
                    XCTAssertTrue(HalfFloat.float(fromBits: HalfFloat.bits(of: sample)).isNaN)
                } else {
                    XCTAssertEqual(HalfFloat.bits(of: sample), expected.bitPattern, "\(sample)")
                }
            }
        }
    }
#endif
