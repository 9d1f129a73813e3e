// What the host app uses of PhotosUI.

@_exported import Foundation
import SwiftUI

// Source: developer.apple.com/documentation/coretransferable/transferable
public protocol Transferable {}

// Source: developer.apple.com/documentation/coretransferable/transferable
extension Data: Transferable {}

// Source: developer.apple.com/documentation/photosui/phpickerfilter
public struct PHPickerFilter: Sendable {
    public static let images = PHPickerFilter()
}

// Source: developer.apple.com/documentation/photosui/photospickeritem
public struct PhotosPickerItem: Equatable, Hashable, Sendable {
    public func loadTransferable<Content: Transferable>(type: Content.Type) async throws -> Content? { fatalError() }
}

// Source: developer.apple.com/documentation/photosui/photospicker
public struct PhotosPicker: View {
    public init<Title: StringProtocol>(
        _ title: Title, selection: Binding<PhotosPickerItem?>, matching filter: PHPickerFilter? = nil
    ) { fatalError() }
    public var body: Never { return fatalError() }
}
