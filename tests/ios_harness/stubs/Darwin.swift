// What the harness uses of Darwin, and of Foundation and Dispatch where only Apple's have it.
// The source of a type is that of its members, unless one names its own.

import Dispatch
import Foundation
@_exported import Glibc

// Source: github.com/apple-oss-distributions/xnu osfmk/mach/i386/vm_types.h and arm/vm_types.h
public typealias natural_t = UInt32
// Source: github.com/apple-oss-distributions/xnu osfmk/mach/i386/vm_types.h and arm/vm_types.h
public typealias integer_t = Int32
// Source: github.com/apple-oss-distributions/xnu osfmk/mach/i386/kern_return.h and arm/kern_return.h
public typealias kern_return_t = Int32
// Source: github.com/apple-oss-distributions/xnu osfmk/mach/port.h
public typealias mach_port_name_t = UInt32
// Source: github.com/apple-oss-distributions/xnu osfmk/mach/task_info.h
public typealias task_flavor_t = UInt32
// Source: github.com/apple-oss-distributions/xnu osfmk/mach/message.h
public typealias mach_msg_type_number_t = UInt32

// Source: github.com/apple-oss-distributions/xnu osfmk/mach/kern_return.h
public let KERN_SUCCESS: Int32 = 0
// Source: github.com/apple-oss-distributions/xnu osfmk/mach/task_info.h
public let TASK_VM_INFO: Int32 = 22

// Source: github.com/apple-oss-distributions/xnu osfmk/mach/mach_traps.h
public func task_self_trap() -> mach_port_name_t { fatalError() }

// Source: developer.apple.com/documentation/kernel/1537934-task_info
public func task_info(
    _ target_task: mach_port_name_t, _ flavor: task_flavor_t, _ task_info_out: UnsafeMutablePointer<integer_t>!,
    _ task_info_outCnt: UnsafeMutablePointer<mach_msg_type_number_t>!
) -> kern_return_t { fatalError() }

// Source: developer.apple.com/documentation/kernel/1387446-sysctlbyname
public func sysctlbyname(
    _ name: UnsafePointer<CChar>!, _ oldp: UnsafeMutableRawPointer!, _ oldlenp: UnsafeMutablePointer<Int>!,
    _ newp: UnsafeMutableRawPointer!, _ newlen: Int
) -> Int32 { fatalError() }

// Source: developer.apple.com/documentation/foundation/processinfo/thermalstate-swift.enum
extension ProcessInfo {
    public enum ThermalState: Int, Sendable {
        case nominal, fair, serious, critical
    }
    public var thermalState: ThermalState { fatalError() }
    // Source: developer.apple.com/documentation/foundation/processinfo/islowpowermodeenabled
    public var isLowPowerModeEnabled: Bool { fatalError() }
}

// Source: developer.apple.com/documentation/foundation/url/applicationsupportdirectory
extension URL {
    public static var applicationSupportDirectory: URL { fatalError() }
}

// Source: developer.apple.com/documentation/dispatch/dispatchserialqueue
public final class DispatchSerialQueue: SerialExecutor, @unchecked Sendable {
    public init(label: String, qos: DispatchQoS = .unspecified) { fatalError() }
    public func enqueue(_ job: consuming ExecutorJob) { fatalError() }
    public func asUnownedSerialExecutor() -> UnownedSerialExecutor { fatalError() }
}

// Bridging is Apple's alone: here the Core Foundation types are those they are bridged from.

// Source: developer.apple.com/documentation/corefoundation/cfdata
public typealias CFData = Data
// Source: developer.apple.com/documentation/corefoundation/cfdictionary
public typealias CFDictionary = [String: Any]
// Source: developer.apple.com/documentation/corefoundation/cfstring
public typealias CFString = String

// Source: developer.apple.com/documentation/corefoundation/cfallocator
public final class CFAllocator {}
// Source: developer.apple.com/documentation/corefoundation/kcfallocatordefault
public var kCFAllocatorDefault: CFAllocator! { fatalError() }
