import Photos

/// Adds pictures to the person's photos, asking for that alone.
enum PhotoLibrary {
    struct Refused: Error, CustomStringConvertible {
        let description = "This app may not add to Photos; allow it in Settings, or share the picture instead."
    }

    /// The PNG file goes in as it is, with its metadata.
    static func add(_ file: URL) async throws {
        let status = await PHPhotoLibrary.requestAuthorization(for: .addOnly)
        guard status == .authorized || status == .limited else { throw Refused() }
        // The block runs on a queue of the library's own.
        try await PHPhotoLibrary.shared().performChanges { @Sendable in
            _ = PHAssetChangeRequest.creationRequestForAssetFromImage(atFileURL: file)
        }
    }
}
