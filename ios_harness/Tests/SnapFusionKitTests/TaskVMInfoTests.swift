import SnapFusionKit
import XCTest

/// Structures as the kernel fills them: field by field in the order of xnu's header, packed to 4 bytes.
final class TaskVMInfoTests: XCTestCase {
    /// Revision 7 (macOS 14.4, iOS 17.4): 93 words. Each field holds its own place in the list.
    private func structure(words: Int = 93, limit: UInt64 = 2_048_000_000) -> [UInt8] {
        var bytes: [UInt8] = []
        func append(_ value: some FixedWidthInteger) { withUnsafeBytes(of: value.littleEndian) { bytes += $0 } }
        append(UInt64(420_000_000_000))  // virtual_size
        append(Int32(2911))  // region_count
        append(Int32(16384))  // page_size
        for field in 0..<16 { append(UInt64(1000 + field)) }  // resident_size to compressed_lifetime
        append(UInt64(913_000_448))  // phys_footprint
        append(UInt64(0x1_0000_0000))  // min_address
        append(UInt64(0x3_0000_0000))  // max_address
        append(Int64(1_204_011_008))  // ledger_phys_footprint_peak
        for field in 0..<16 { append(Int64(100 + field)) }  // ledger_purgeable_nonvolatile to …graphics…compressed
        append(Int64(16_384))  // ledger_tag_neural_footprint
        append(Int64(0))  // …compressed
        append(Int64(871_366_656))  // ledger_tag_neural_nofootprint
        append(Int64(32_768))  // …compressed
        append(limit)  // limit_bytes_remaining
        append(Int32(17))  // decompressions
        append(Int64(3))  // ledger_swapins
        append(Int64(871_399_424))  // ledger_tag_neural_nofootprint_total
        append(Int64(902_000_000))  // ledger_tag_neural_nofootprint_peak
        XCTAssertEqual(bytes.count, 4 * TaskVMInfo.words)
        return Array(bytes.prefix(4 * words))
    }

    func testEveryFigureIsReadFromItsPlace() {
        XCTAssertEqual(
            TaskVMInfo(structure()).sample,
            MemorySample(
                total: 913_000_448, processPeak: 1_204_011_008, neural: 16_384 + 871_366_656 + 32_768,
                neuralPeak: 902_000_000, limitRemaining: 2_048_000_000))
    }

    func testAnOlderSystemFillsLess() {
        // Revision 4: without the peak of the Neural Engine's.
        let fourth = TaskVMInfo(structure(words: 86)).sample
        XCTAssertNil(fourth?.neuralPeak)
        XCTAssertEqual(fourth?.limitRemaining, 2_048_000_000)
        // Revision 1: the footprint alone.
        XCTAssertEqual(TaskVMInfo(structure(words: 38)).sample, MemorySample(total: 913_000_448))
        XCTAssertNil(TaskVMInfo(structure(words: 36)).sample)
    }

    func testNoLimitIsNoRemainderOfZero() {
        XCTAssertNil(TaskVMInfo(structure(limit: 0)).sample?.limitRemaining)
    }

    func testTheWorstOfTwoSamplesIsTheHighestOfEachAndTheLeastRemainder() {
        let first = MemorySample(total: 5, processPeak: 9, neural: 2, limitRemaining: 40)
        let second = MemorySample(total: 7, neural: 1, neuralPeak: 3, limitRemaining: 30)
        XCTAssertEqual(
            first.worst(second),
            MemorySample(total: 7, processPeak: 9, neural: 2, neuralPeak: 3, limitRemaining: 30))
    }
}
