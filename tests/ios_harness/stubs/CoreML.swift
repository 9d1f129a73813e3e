// The part of Core ML that the harness uses, declared after Apple's documentation, for type-checking where Core ML is not.
// Nothing here runs or ships. Classes are left without Sendable: what checks without it checks with it.
// The source of a type is that of its members, unless one names its own.

import CoreVideo
@_exported import Darwin
@_exported import Foundation

// Source: developer.apple.com/documentation/coreml/mlcomputeunits
public enum MLComputeUnits: Int {
    case cpuOnly, cpuAndGPU, all, cpuAndNeuralEngine
}

// Source: developer.apple.com/documentation/coreml/mlmultiarraydatatype
public enum MLMultiArrayDataType: Int {
    case double = 65600
    case float32 = 65568
    case float16 = 65552
    case int32 = 131104
    case int8 = 131080
}

// Source: developer.apple.com/documentation/coreml/mlmodelconfiguration
open class MLModelConfiguration: NSObject {
    public override init() { fatalError() }
    open var computeUnits: MLComputeUnits {
        get { fatalError() }
        set { fatalError() }
    }
    @available(macOS 15.0, iOS 18.0, *)
    open var functionName: String? {
        get { fatalError() }
        set { fatalError() }
    }
}

// Source: developer.apple.com/documentation/coreml/mlfeaturedescription
open class MLFeatureDescription: NSObject {}

// Source: developer.apple.com/documentation/coreml/mlmodeldescription
open class MLModelDescription: NSObject {
    open var inputDescriptionsByName: [String: MLFeatureDescription] { fatalError() }
    open var outputDescriptionsByName: [String: MLFeatureDescription] { fatalError() }
}

// Source: developer.apple.com/documentation/coreml/mlmultiarray
open class MLMultiArray: NSObject {
    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws { fatalError() }
    // Source: developer.apple.com/documentation/coreml/mlmultiarray/init(pixelbuffer:shape:)
    public convenience init(pixelBuffer: CVPixelBuffer, shape: [NSNumber]) { fatalError() }
    // Source: developer.apple.com/documentation/coreml/mlmultiarray/pixelbuffer
    open var pixelBuffer: CVPixelBuffer? { fatalError() }
    open var shape: [NSNumber] { fatalError() }
    open var strides: [NSNumber] { fatalError() }
    open var dataType: MLMultiArrayDataType { fatalError() }
    open var count: Int { fatalError() }
    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { fatalError() }
    public func withUnsafeMutableBytes<R>(
        _ body: (UnsafeMutableRawBufferPointer, [Int]) throws -> R
    ) rethrows -> R { fatalError() }
}

// Source: developer.apple.com/documentation/coreml/mlfeaturevalue
open class MLFeatureValue: NSObject {
    open var multiArrayValue: MLMultiArray? { fatalError() }
}

// Source: developer.apple.com/documentation/coreml/mlfeatureprovider
public protocol MLFeatureProvider {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}

// Source: developer.apple.com/documentation/coreml/mldictionaryfeatureprovider
open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
    public init(dictionary: [String: Any]) throws { fatalError() }
    open var featureNames: Set<String> { fatalError() }
    open func featureValue(for featureName: String) -> MLFeatureValue? { fatalError() }
}

// Source: developer.apple.com/documentation/coreml/mlpredictionoptions
open class MLPredictionOptions: NSObject {
    public override init() { fatalError() }
    open var outputBackings: [String: Any] {
        get { fatalError() }
        set { fatalError() }
    }
}

// Source: developer.apple.com/documentation/coreml/mlmodel
open class MLModel: NSObject {
    public convenience init(contentsOf url: URL, configuration: MLModelConfiguration) throws { fatalError() }
    open var modelDescription: MLModelDescription { fatalError() }
    open func prediction(from input: any MLFeatureProvider, options: MLPredictionOptions) throws
        -> any MLFeatureProvider
    {
        fatalError()
    }
    @available(macOS 14.0, iOS 17.0, *)
    open func prediction(
        from input: any MLFeatureProvider, options: MLPredictionOptions = MLPredictionOptions()
    ) async throws -> any MLFeatureProvider { fatalError() }
    @available(*, deprecated, message: "Use the asynchronous interface instead.")
    open class func compileModel(at modelURL: URL) throws -> URL { fatalError() }
    open class func compileModel(at url: URL) async throws -> URL { fatalError() }
}

// Source: developer.apple.com/documentation/coreml/mlcpucomputedevice
public final class MLCPUComputeDevice: NSObject, Sendable {}
// Source: developer.apple.com/documentation/coreml/mlgpucomputedevice
public final class MLGPUComputeDevice: NSObject, Sendable {}
// Source: developer.apple.com/documentation/coreml/mlneuralenginecomputedevice
public final class MLNeuralEngineComputeDevice: NSObject, Sendable {}

// Source: developer.apple.com/documentation/coreml/mlcomputedevice
public enum MLComputeDevice: Sendable {
    case cpu(MLCPUComputeDevice)
    case gpu(MLGPUComputeDevice)
    case neuralEngine(MLNeuralEngineComputeDevice)
}

// Source: developer.apple.com/documentation/coreml/mlmodelstructure
@available(macOS 14.4, iOS 17.4, *)
public enum MLModelStructure: Sendable {
    case neuralNetwork(NeuralNetwork)
    case program(Program)
    case pipeline(Pipeline)
    case unsupported

    public struct NeuralNetwork: Sendable {}

    public struct Pipeline: Sendable {
        public let subModelNames: [String]
        public let subModels: [MLModelStructure]
    }

    public struct Program: Sendable {
        public struct Operation: Sendable {
            public let operatorName: String
            public let blocks: [Block]
        }
        public struct Block: Sendable {
            public let operations: [Operation]
        }
        public struct Function: Sendable {
            public let block: Block
        }
        public let functions: [String: Function]
    }
}

// Source: developer.apple.com/documentation/coreml/mlcomputeplan
@available(macOS 14.4, iOS 17.4, *)
public class MLComputePlan {
    public struct DeviceUsage: Sendable {
        public let preferred: MLComputeDevice
        public let supported: [MLComputeDevice]
    }
    public struct Cost: Sendable {
        public let weight: Double
    }
    public var modelStructure: MLModelStructure { fatalError() }
    public class func load(contentsOf url: URL, configuration: MLModelConfiguration) async throws -> MLComputePlan {
        fatalError()
    }
    public func deviceUsage(for operation: MLModelStructure.Program.Operation) -> DeviceUsage? { fatalError() }
    public func estimatedCost(of operation: MLModelStructure.Program.Operation) -> Cost? { fatalError() }
}
