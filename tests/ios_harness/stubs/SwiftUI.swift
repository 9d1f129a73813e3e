// What the host app uses of SwiftUI. Views are reduced to their types.

@_exported import Foundation
@_exported import UIKit

public typealias CGFloat = Foundation.CGFloat

@MainActor @preconcurrency
public protocol View {
    associatedtype Body: View
    @ViewBuilder @MainActor @preconcurrency var body: Body { get }
}

extension Never: View {
    public var body: Never { return fatalError() }
}

extension Optional: View where Wrapped: View {
    public var body: Never { return fatalError() }
}

/// Every view made of others.
public struct Composed: View {
    public var body: Never { return fatalError() }
}

@resultBuilder
public struct ViewBuilder {
    public static func buildBlock<each Content: View>(_ content: repeat each Content) -> Composed { fatalError() }
    public static func buildExpression<Content: View>(_ content: Content) -> Content { fatalError() }
    public static func buildIf<Content: View>(_ content: Content?) -> Content? { fatalError() }
    public static func buildEither<Content: View>(first: Content) -> Composed { fatalError() }
    public static func buildEither<Content: View>(second: Content) -> Composed { fatalError() }
}

@MainActor @preconcurrency
public protocol Scene {
    associatedtype Body: Scene
    @MainActor @preconcurrency var body: Body { get }
}

extension Never: Scene {}

public struct WindowGroup<Content: View>: Scene {
    public init(@ViewBuilder content: () -> Content) { fatalError() }
    public var body: Never { return fatalError() }
}

@MainActor @preconcurrency
public protocol App {
    associatedtype Body: Scene
    @MainActor @preconcurrency var body: Body { get }
    @MainActor @preconcurrency init()
}

extension App {
    @MainActor @preconcurrency public static func main() { fatalError() }
}

@propertyWrapper
public struct State<Value> {
    public init(wrappedValue value: Value) { fatalError() }
    public var wrappedValue: Value {
        get { fatalError() }
        nonmutating set { fatalError() }
    }
    public var projectedValue: Binding<Value> { fatalError() }
}

@dynamicMemberLookup
public struct Binding<Value> {
    public subscript<Subject>(dynamicMember keyPath: WritableKeyPath<Value, Subject>) -> Binding<Subject> {
        fatalError()
    }
}

public enum Axis: Sendable {
    case horizontal, vertical
    public struct Set: OptionSet, Sendable {
        public let rawValue: Int
        public init(rawValue: Int) { self.rawValue = rawValue }
        public static let horizontal = Set(rawValue: 1)
        public static let vertical = Set(rawValue: 2)
    }
}

public struct ButtonRole: Sendable {
    public static let cancel = ButtonRole()
}

public struct Font: Sendable {
    public enum TextStyle: Sendable { case footnote, caption2 }
    public enum Design: Sendable { case monospaced }
    public static let footnote = Font()
    public static let caption2 = Font()
    public static func system(_ style: TextStyle, design: Design? = nil) -> Font { fatalError() }
}

public struct Form: View {
    public init<Content: View>(@ViewBuilder content: () -> Content) { fatalError() }
    public var body: Never { return fatalError() }
}

public struct NavigationStack: View {
    public init<Root: View>(@ViewBuilder root: () -> Root) { fatalError() }
    public var body: Never { return fatalError() }
}

public struct Section: View {
    public init<Content: View>(@ViewBuilder content: () -> Content) { fatalError() }
    public init<Title: StringProtocol, Content: View>(_ title: Title, @ViewBuilder content: () -> Content) {
        fatalError()
    }
    public var body: Never { return fatalError() }
}

public struct ScrollView: View {
    public init<Content: View>(_ axes: Axis.Set = .vertical, @ViewBuilder content: () -> Content) { fatalError() }
    public var body: Never { return fatalError() }
}

public struct HStack: View {
    public init<Content: View>(@ViewBuilder content: () -> Content) { fatalError() }
    public var body: Never { return fatalError() }
}

public struct VStack: View {
    public init<Content: View>(@ViewBuilder content: () -> Content) { fatalError() }
    public var body: Never { return fatalError() }
}

public struct ForEach: View {
    public init<Data: RandomAccessCollection, Content: View>(
        _ data: Data, @ViewBuilder content: @escaping (Data.Element) -> Content
    ) where Data.Element: Identifiable { fatalError() }
    public var body: Never { return fatalError() }
}

public struct Text: View {
    public init<Content: StringProtocol>(_ content: Content) { fatalError() }
    public var body: Never { return fatalError() }
}

public struct TextField: View {
    public init<Title: StringProtocol>(_ title: Title, text: Binding<String>, axis: Axis) { fatalError() }
    public var body: Never { return fatalError() }
}

public struct Stepper: View {
    public init<Title: StringProtocol, Value: Strideable>(
        _ title: Title, value: Binding<Value>, in bounds: ClosedRange<Value>, step: Value.Stride = 1
    ) { fatalError() }
    public var body: Never { return fatalError() }
}

public struct Toggle: View {
    public init<Title: StringProtocol>(_ title: Title, isOn: Binding<Bool>) { fatalError() }
    public var body: Never { return fatalError() }
}

public struct Button: View {
    public init<Title: StringProtocol>(_ title: Title, action: @escaping @MainActor () -> Void) { fatalError() }
    public init<Title: StringProtocol>(_ title: Title, role: ButtonRole?, action: @escaping @MainActor () -> Void) {
        fatalError()
    }
    public var body: Never { return fatalError() }
}

public struct ShareLink: View {
    public init<Title: StringProtocol>(_ title: Title, item: URL) { fatalError() }
    public var body: Never { return fatalError() }
}

public struct Image: View {
    public enum Interpolation: Sendable { case none }
    public init(uiImage image: UIImage) { fatalError() }
    public func resizable() -> Image { fatalError() }
    public func interpolation(_ interpolation: Interpolation) -> Image { fatalError() }
    public var body: Never { return fatalError() }
}

extension View {
    public func font(_ font: Font?) -> some View { self }
    public func frame(width: CGFloat? = nil, height: CGFloat? = nil) -> some View { self }
    public func frame(minWidth: CGFloat? = nil, maxWidth: CGFloat? = nil) -> some View { self }
    public func scaledToFit() -> some View { self }
    public func navigationTitle<Title: StringProtocol>(_ title: Title) -> some View { self }
}
