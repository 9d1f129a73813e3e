// What the harness uses of Core Video.

@_exported import Darwin
@_exported import Foundation

// Source: developer.apple.com/documentation/corevideo/cvreturn
public typealias CVReturn = Int32
// Source: developer.apple.com/documentation/corevideo/cvreturn
public let kCVReturnSuccess: CVReturn = 0
// Source: developer.apple.com/documentation/kernel/ostype
public typealias OSType = UInt32

// Source: developer.apple.com/documentation/corevideo/cvpixelbuffer
public final class CVPixelBuffer {}

// Source: developer.apple.com/documentation/corevideo/kcvpixelformattype_onecomponent16half
public let kCVPixelFormatType_OneComponent16Half: OSType = 0x4c30_3068
// Source: developer.apple.com/documentation/corevideo/kcvpixelbufferiosurfacepropertieskey
public let kCVPixelBufferIOSurfacePropertiesKey: CFString = ""

// Source: developer.apple.com/documentation/corevideo/cvpixelbuffercreate(_:_:_:_:_:_:)
public func CVPixelBufferCreate(
    _ allocator: CFAllocator?, _ width: Int, _ height: Int, _ pixelFormatType: OSType,
    _ pixelBufferAttributes: CFDictionary?, _ pixelBufferOut: UnsafeMutablePointer<CVPixelBuffer?>
) -> CVReturn { fatalError() }
