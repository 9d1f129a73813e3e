// What the apps use of SwiftUI. Views are reduced to their types. The source of a type is that of its members, unless one
// names its own.

@_exported import Foundation
@_exported import UIKit

// Source: developer.apple.com/documentation/corefoundation/cgfloat
public typealias CGFloat = Foundation.CGFloat

// Source: developer.apple.com/documentation/swiftui/view
@MainActor @preconcurrency
public protocol View {
    associatedtype Body: View
    @ViewBuilder @MainActor @preconcurrency var body: Body { get }
}

// Source: developer.apple.com/documentation/swiftui/view
extension Never: View {
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/view
extension Optional: View where Wrapped: View {
    public var body: Never { return fatalError() }
}

/// Every view made of others.
// Source: developer.apple.com/documentation/swiftui/view
public struct Composed: View {
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/viewbuilder
@resultBuilder
public struct ViewBuilder {
    public static func buildBlock<each Content: View>(_ content: repeat each Content) -> Composed { fatalError() }
    public static func buildExpression<Content: View>(_ content: Content) -> Content { fatalError() }
    public static func buildIf<Content: View>(_ content: Content?) -> Content? { fatalError() }
    public static func buildEither<Content: View>(first: Content) -> Composed { fatalError() }
    public static func buildEither<Content: View>(second: Content) -> Composed { fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/scene
@MainActor @preconcurrency
public protocol Scene {
    associatedtype Body: Scene
    @MainActor @preconcurrency var body: Body { get }
}

// Source: developer.apple.com/documentation/swiftui/view
extension Never: Scene {}

// Source: developer.apple.com/documentation/swiftui/windowgroup
public struct WindowGroup<Content: View>: Scene {
    public init(@ViewBuilder content: () -> Content) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/app
@MainActor @preconcurrency
public protocol App {
    associatedtype Body: Scene
    @MainActor @preconcurrency var body: Body { get }
    @MainActor @preconcurrency init()
}

// Source: developer.apple.com/documentation/swiftui/app
extension App {
    @MainActor @preconcurrency public static func main() { fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/state
@propertyWrapper
public struct State<Value> {
    public init(wrappedValue value: Value) { fatalError() }
    public var wrappedValue: Value {
        get { fatalError() }
        nonmutating set { fatalError() }
    }
    public var projectedValue: Binding<Value> { fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/scaledmetric
@propertyWrapper
public struct ScaledMetric<Value: BinaryFloatingPoint> {
    public init(wrappedValue value: Value) { fatalError() }
    public var wrappedValue: Value { fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/bindable
@dynamicMemberLookup @propertyWrapper
public struct Bindable<Value: AnyObject> {
    public init(wrappedValue value: Value) { fatalError() }
    public var wrappedValue: Value {
        get { fatalError() }
        set { fatalError() }
    }
    public var projectedValue: Bindable<Value> { self }
    public subscript<Subject>(dynamicMember keyPath: ReferenceWritableKeyPath<Value, Subject>) -> Binding<Subject> {
        fatalError()
    }
}

// Source: developer.apple.com/documentation/swiftui/binding
@dynamicMemberLookup @propertyWrapper
public struct Binding<Value> {
    public init(
        get: @escaping @isolated(any) @Sendable () -> Value, set: @escaping @isolated(any) @Sendable (Value) -> Void
    ) { fatalError() }
    public var wrappedValue: Value {
        get { fatalError() }
        nonmutating set { fatalError() }
    }
    public var projectedValue: Binding<Value> { self }
    public subscript<Subject>(dynamicMember keyPath: WritableKeyPath<Value, Subject>) -> Binding<Subject> {
        fatalError()
    }
}

// Source: developer.apple.com/documentation/swiftui/axis
public enum Axis: Sendable {
    case horizontal, vertical
    public struct Set: OptionSet, Sendable {
        public let rawValue: Int
        public init(rawValue: Int) { self.rawValue = rawValue }
        public static let horizontal = Set(rawValue: 1)
        public static let vertical = Set(rawValue: 2)
    }
}

// Source: developer.apple.com/documentation/swiftui/buttonrole
public struct ButtonRole: Sendable {
    public static let cancel = ButtonRole()
    public static let destructive = ButtonRole()
}

// Source: developer.apple.com/documentation/swiftui/font
public struct Font: Sendable {
    public enum TextStyle: Sendable { case footnote, caption2 }
    public enum Design: Sendable { case monospaced }
    public static let footnote = Font()
    public static let caption2 = Font()
    public static func system(_ style: TextStyle, design: Design? = nil) -> Font { fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/form
public struct Form: View {
    public init<Content: View>(@ViewBuilder content: () -> Content) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/navigationstack
public struct NavigationStack: View {
    public init<Root: View>(@ViewBuilder root: () -> Root) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/section
public struct Section: View {
    public init<Content: View>(@ViewBuilder content: () -> Content) { fatalError() }
    public init<Title: StringProtocol, Content: View>(_ title: Title, @ViewBuilder content: () -> Content) {
        fatalError()
    }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/scrollview
public struct ScrollView: View {
    public init<Content: View>(_ axes: Axis.Set = .vertical, @ViewBuilder content: () -> Content) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/hstack
public struct HStack: View {
    public init<Content: View>(@ViewBuilder content: () -> Content) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/vstack
public struct VStack: View {
    public init<Content: View>(@ViewBuilder content: () -> Content) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/foreach
public struct ForEach: View {
    public init<Data: RandomAccessCollection, Content: View>(
        _ data: Data, @ViewBuilder content: @escaping (Data.Element) -> Content
    ) where Data.Element: Identifiable { fatalError() }
    // Source: developer.apple.com/documentation/swiftui/foreach/init(_:id:content:)
    public init<Data: RandomAccessCollection, ID: Hashable, Content: View>(
        _ data: Data, id: KeyPath<Data.Element, ID>, @ViewBuilder content: @escaping (Data.Element) -> Content
    ) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/text
public struct Text: View {
    public init<Content: StringProtocol>(_ content: Content) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/textfield
public struct TextField: View {
    public init<Title: StringProtocol>(_ title: Title, text: Binding<String>, axis: Axis) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/textfield
extension TextField {
    public init<Title: StringProtocol, Format: ParseableFormatStyle>(
        _ title: Title, value: Binding<Format.FormatInput>, format: Format
    ) where Format.FormatOutput == String { fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/picker
public struct Picker: View {
    public init<Title: StringProtocol, Selection: Hashable, Content: View>(
        _ title: Title, selection: Binding<Selection>, @ViewBuilder content: () -> Content
    ) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/stepper
public struct Stepper: View {
    public init<Title: StringProtocol, Value: Strideable>(
        _ title: Title, value: Binding<Value>, in bounds: ClosedRange<Value>, step: Value.Stride = 1
    ) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/toggle
public struct Toggle: View {
    public init<Title: StringProtocol>(_ title: Title, isOn: Binding<Bool>) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/button
public struct Button: View {
    public init<Title: StringProtocol>(_ title: Title, action: @escaping @MainActor () -> Void) { fatalError() }
    public init<Title: StringProtocol>(_ title: Title, role: ButtonRole?, action: @escaping @MainActor () -> Void) {
        fatalError()
    }
    // Source: developer.apple.com/documentation/swiftui/button/init(action:label:)
    public init<Label: View>(action: @escaping @MainActor () -> Void, @ViewBuilder label: () -> Label) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/slider
public struct Slider: View {
    public init<Value: BinaryFloatingPoint>(value: Binding<Value>, in bounds: ClosedRange<Value>) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/geometryreader
public struct GeometryReader<Content: View>: View {
    public init(@ViewBuilder content: @escaping (GeometryProxy) -> Content) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/geometryproxy
public struct GeometryProxy {
    public var size: CGSize { fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/canvas
public struct Canvas: View {
    public init(renderer: @escaping (inout GraphicsContext, CGSize) -> Void) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/graphicscontext
public struct GraphicsContext {
    public struct BlendMode: Sendable {
        public static let normal = BlendMode()
        public static let clear = BlendMode()
    }
    public struct Shading: Sendable {
        public static func color(_ color: Color) -> Shading { fatalError() }
    }
    public var blendMode: BlendMode
    public func stroke(_ path: Path, with shading: Shading, style: StrokeStyle) { fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/color
public struct Color: Sendable {
    public static let red = Color()
}

// Source: developer.apple.com/documentation/swiftui/path
public struct Path: Sendable {
    public init() {}
    public mutating func move(to end: CGPoint) { fatalError() }
    public mutating func addLine(to end: CGPoint) { fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/strokestyle
public struct StrokeStyle: Sendable {
    public enum Cap: Sendable { case round }
    public enum Join: Sendable { case round }
    public init(lineWidth: CGFloat = 1, lineCap: Cap = .round, lineJoin: Join = .round) { fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/gesture
@MainActor @preconcurrency
public protocol Gesture<Value> {
    associatedtype Value
}

// Source: developer.apple.com/documentation/swiftui/gesture
extension Gesture {
    public func onChanged(_ action: @escaping @MainActor (Value) -> Void) -> some Gesture<Value> { self }
    public func onEnded(_ action: @escaping @MainActor (Value) -> Void) -> some Gesture<Value> { self }
}

// Source: developer.apple.com/documentation/swiftui/draggesture
public struct DragGesture: Gesture {
    public struct Value: Sendable {
        public var location: CGPoint
    }
    public init(minimumDistance: CGFloat = 10) { fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/sharelink
public struct ShareLink: View {
    public init<Title: StringProtocol>(_ title: Title, item: URL) { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/image
public struct Image: View {
    public enum Interpolation: Sendable { case none }
    public init(uiImage image: UIImage) { fatalError() }
    public func resizable() -> Image { fatalError() }
    public func interpolation(_ interpolation: Interpolation) -> Image { fatalError() }
    public var body: Never { return fatalError() }
}

// Source: developer.apple.com/documentation/swiftui/view
extension View {
    public func font(_ font: Font?) -> some View { self }
    public func frame(width: CGFloat? = nil, height: CGFloat? = nil) -> some View { self }
    public func frame(minWidth: CGFloat? = nil, maxWidth: CGFloat? = nil) -> some View { self }
    public func scaledToFit() -> some View { self }
    // Source: developer.apple.com/documentation/swiftui/view/tag(_:includeoptional:)
    public func tag<Value: Hashable>(_ tag: Value) -> some View { self }
    // Source: developer.apple.com/documentation/swiftui/view/accessibilitylabel(_:)
    public func accessibilityLabel<Label: StringProtocol>(_ label: Label) -> some View { self }
    public func accessibilityHint<Hint: StringProtocol>(_ hint: Hint) -> some View { self }
    public func accessibilityHidden(_ hidden: Bool) -> some View { self }
    // Source: developer.apple.com/documentation/swiftui/view/task(priority:_:)
    public func task(
        priority: TaskPriority = .userInitiated, @_inheritActorContext _ action: @escaping @isolated(any) @Sendable () async -> Void
    ) -> some View { self }
    // Source: developer.apple.com/documentation/swiftui/view/onchange(of:initial:_:)
    public func onChange<Value: Equatable>(
        of value: Value, initial: Bool = false, _ action: @escaping @MainActor (Value, Value) -> Void
    ) -> some View { self }
    // Source: developer.apple.com/documentation/swiftui/view/overlay(alignment:content:)
    public func overlay<Content: View>(@ViewBuilder content: () -> Content) -> some View { self }
    // Source: developer.apple.com/documentation/swiftui/view/gesture(_:including:)
    public func gesture<Drag: Gesture>(_ gesture: Drag) -> some View { self }
    public func disabled(_ disabled: Bool) -> some View { self }
    public func opacity(_ opacity: Double) -> some View { self }
    public func navigationTitle<Title: StringProtocol>(_ title: Title) -> some View { self }
}
