import SwiftUI

/// One picture, with what VoiceOver says of it.
struct PictureView: View {
    let picture: DrawnPicture

    var body: some View {
        Image(uiImage: picture.image).resizable().interpolation(.none).scaledToFit()
            .accessibilityLabel(picture.title)
    }
}

/// Small pictures side by side; they grow with the text.
struct PictureStrip: View {
    let pictures: [DrawnPicture]
    var choose: ((DrawnPicture) -> Void)?
    @ScaledMetric private var side: CGFloat = 96

    var body: some View {
        ScrollView(.horizontal) {
            HStack { ForEach(pictures) { small($0) } }
        }
    }

    private func small(_ picture: DrawnPicture) -> some View {
        VStack {
            if let choose {
                Button {
                    choose(picture)
                } label: {
                    PictureView(picture: picture)
                }
            } else {
                PictureView(picture: picture)
            }
            Text(picture.caption).font(.caption2).accessibilityHidden(true)
        }
        .frame(width: side)
    }
}

/// The picture with what can be done with it.
struct PictureDetail: View {
    let picture: DrawnPicture
    let session: DrawingSession

    var body: some View {
        PictureView(picture: picture).frame(maxWidth: .infinity)
        Text(picture.title).font(.footnote)
        if session.isFlagged {
            Text("The safety checker flags this picture: it is black. Another seed or prompt may pass.").font(.footnote)
        }
        if session.form.offer.takesPicture, picture.file != nil {
            Button("Start from this picture") { session.goOn(from: picture) }
        }
        if let file = picture.file {
            Button("Save to Photos") { session.save(file) }
            ShareLink("Share", item: file)
        }
    }
}

/// What was drawn before, the newest first.
struct HistorySection: View {
    let session: DrawingSession

    var body: some View {
        Section("History") {
            PictureStrip(pictures: session.history.entries) { session.show($0) }
            Button("Clear the history", role: .destructive) { session.clearHistory() }
        }
    }
}
