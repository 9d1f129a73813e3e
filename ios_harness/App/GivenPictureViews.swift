import PhotosUI
import SnapFusionCoreML
import SnapFusionKit
import SwiftUI

/// Asks for one of the person's pictures, which the app sees alone of all.
struct PicturePicker: View {
    let title: String
    let session: DrawingSession
    var control: String?
    @State private var chosen: PhotosPickerItem?

    var body: some View {
        PhotosPicker(title, selection: $chosen, matching: .images)
            .onChange(of: chosen) { _, item in
                guard let item else { return }
                session.take({ try await item.loadTransferable(type: Data.self) }, for: control)
                chosen = nil
            }
    }
}

/// The picture to start from, to repaint or to edit, and what is done with it.
struct GivenPictureSection: View {
    @Bindable var session: DrawingSession

    var body: some View {
        Section("Picture to start from") {
            PicturePicker(title: "Choose a picture", session: session)
            if let picture = session.form.picture {
                if session.form.offer.takesMask {
                    MaskEditor(picture: picture, session: session)
                } else {
                    GivenPictureView(picture: picture)
                }
                if session.form.offer.task == .instructedEditing {
                    LabeledSlider(title: "Closeness", value: $session.form.pictureGuidance, range: 1...3)
                } else {
                    LabeledSlider(title: "Strength", value: $session.form.strength, range: 0.05...1)
                }
                Button("Remove the picture", role: .destructive) { session.form.removePicture() }
            }
        }
    }
}

/// A picture for one of the bundle's ControlNets.
struct ControlSection: View {
    let name: String
    @Bindable var session: DrawingSession

    var body: some View {
        Section("Control: \(name)") {
            PicturePicker(title: "Choose a picture", session: session, control: name)
            if let field = session.form.controls[name] {
                GivenPictureView(picture: field.picture)
                LabeledSlider(title: "Scale", value: scale, range: 0...2)
                Button("Remove the picture", role: .destructive) { session.form.removeControl(name) }
            }
        }
    }

    private var scale: Binding<Double> {
        Binding(
            get: { @MainActor [session, name] in session.form.controls[name]?.scale ?? 1 },
            set: { @MainActor [session, name] in session.form.scaleControl(name, to: $0) })
    }
}

/// A picture as the bundle gets it.
struct GivenPictureView: View {
    let picture: GeneratedPicture

    var body: some View {
        if let image = try? picture.uiImage() {
            Image(uiImage: image).resizable().scaledToFit().accessibilityLabel("The picture that is given")
        }
    }
}

/// The picture under a mask that a finger paints: what is red is drawn anew.
struct MaskEditor: View {
    let picture: GeneratedPicture
    @Bindable var session: DrawingSession
    @State private var radius = 0.08
    @State private var erases = false

    var body: some View {
        GivenPictureView(picture: picture)
            .overlay {
                GeometryReader { geometry in
                    Canvas { context, size in paint(&context, size) }
                        .opacity(0.5)
                        .gesture(brush(geometry.size))
                }
            }
            .accessibilityHint("Paint with a finger over what is to be drawn anew")
        LabeledSlider(title: "Brush", value: $radius, range: 0.02...0.3)
        Toggle("Take away", isOn: $erases)
        if !session.form.mask.isEmpty {
            Button("Undo the last stroke") { session.form.mask.undo() }
            Button("Clear the mask", role: .destructive) { session.form.mask.clear() }
        }
    }

    private func brush(_ size: CGSize) -> some Gesture {
        DragGesture(minimumDistance: 0)
            .onChanged { value in
                let (width, height) = (Double(size.width), Double(size.height))
                session.form.mask.touch(
                    .init(Double(value.location.x), Double(value.location.y), in: width, height), radius: radius,
                    erases: erases)
            }
            .onEnded { _ in session.form.mask.lift() }
    }

    /// Strokes one over the other, each as the kit rasters it: round, as wide as its brush.
    private func paint(_ context: inout GraphicsContext, _ size: CGSize) {
        for stroke in session.form.mask.strokes {
            let places = stroke.points.map { CGPoint(x: $0.x * Double(size.width), y: $0.y * Double(size.height)) }
            guard let first = places.first else { continue }
            var path = Path()
            path.move(to: first)
            for place in places.dropFirst() { path.addLine(to: place) }
            // A dot is a line to itself.
            if places.count == 1 { path.addLine(to: first) }
            let width = 2 * stroke.radius * Double(min(size.width, size.height))
            context.blendMode = stroke.erases ? .clear : .normal
            let style = StrokeStyle(lineWidth: width, lineCap: .round, lineJoin: .round)
            context.stroke(path, with: .color(.red), style: style)
        }
    }
}

/// A slider that says what it sets.
struct LabeledSlider: View {
    let title: String
    @Binding var value: Double
    let range: ClosedRange<Double>

    var body: some View {
        VStack {
            Text("\(title): \(value.formatted(.number.precision(.fractionLength(2))))").font(.footnote)
                .accessibilityHidden(true)
            Slider(value: $value, in: range).accessibilityLabel(title)
        }
    }
}
