// What the host app uses of PhotoKit.

@_exported import Foundation

// Source: developer.apple.com/documentation/photokit/phaccesslevel
public enum PHAccessLevel: Int, Sendable {
    case addOnly = 1
    case readWrite = 2
}

// Source: developer.apple.com/documentation/photokit/phauthorizationstatus
public enum PHAuthorizationStatus: Int, Sendable {
    case notDetermined, restricted, denied, authorized, limited
}

// Source: developer.apple.com/documentation/photokit/phphotolibrary
open class PHPhotoLibrary: NSObject, @unchecked Sendable {
    open class func shared() -> PHPhotoLibrary { fatalError() }
    // Source: developer.apple.com/documentation/photokit/phphotolibrary/requestauthorization(for:handler:)
    open class func requestAuthorization(for accessLevel: PHAccessLevel) async -> PHAuthorizationStatus { fatalError() }
    // Source: developer.apple.com/documentation/photokit/phphotolibrary/performchanges(_:completionhandler:)
    open func performChanges(_ changeBlock: @escaping () -> Void) async throws { fatalError() }
}

// Source: developer.apple.com/documentation/photokit/phassetchangerequest
open class PHAssetChangeRequest: NSObject {
    open class func creationRequestForAssetFromImage(atFileURL fileURL: URL) -> Self? { fatalError() }
}
