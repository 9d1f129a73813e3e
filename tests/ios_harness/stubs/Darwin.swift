// What the harness uses of Darwin, and of Foundation and Dispatch where only Apple's have it.

import Dispatch
import Foundation
@_exported import Glibc

public typealias natural_t = UInt32
public typealias integer_t = Int32
public typealias kern_return_t = Int32
public typealias mach_port_name_t = UInt32
public typealias task_flavor_t = UInt32
public typealias mach_msg_type_number_t = UInt32

public let KERN_SUCCESS: Int32 = 0
public let TASK_VM_INFO: Int32 = 22

public struct task_vm_info_data_t {
    public var phys_footprint: UInt64
    public init() { fatalError() }
}

public func task_self_trap() -> mach_port_name_t { fatalError() }

public func task_info(
    _ target_task: mach_port_name_t, _ flavor: task_flavor_t, _ task_info_out: UnsafeMutablePointer<integer_t>!,
    _ task_info_outCnt: UnsafeMutablePointer<mach_msg_type_number_t>!
) -> kern_return_t { fatalError() }

public func sysctlbyname(
    _ name: UnsafePointer<CChar>!, _ oldp: UnsafeMutableRawPointer!, _ oldlenp: UnsafeMutablePointer<Int>!,
    _ newp: UnsafeMutableRawPointer!, _ newlen: Int
) -> Int32 { fatalError() }

extension ProcessInfo {
    public enum ThermalState: Int, Sendable {
        case nominal, fair, serious, critical
    }
    public var thermalState: ThermalState { fatalError() }
    public var isLowPowerModeEnabled: Bool { fatalError() }
}

public final class DispatchSerialQueue: SerialExecutor, @unchecked Sendable {
    public init(label: String) { fatalError() }
    public func enqueue(_ job: consuming ExecutorJob) { fatalError() }
    public func asUnownedSerialExecutor() -> UnownedSerialExecutor { fatalError() }
}
