import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// A bundle's files behind a URL: `manifest.json` and the others lie below it, under their paths in the bundle.
public struct HTTPBundleSource: BundleSource {
    public let root: URL
    /// Seconds without a byte until a transfer counts as broken off.
    public var timeout = 60.0

    /// - Parameter root: the address of the bundle's directory.
    public init(root: URL) { self.root = root }

    public func fetch(_ path: String, from offset: Int, into sink: any DownloadSink) async throws {
        var request = URLRequest(url: root.appendingPathComponent(path))
        request.timeoutInterval = timeout
        request.cachePolicy = .reloadIgnoringLocalCacheData
        // Ranges are of the bytes as they are stored.
        request.setValue("identity", forHTTPHeaderField: "Accept-Encoding")
        if offset > 0 { request.setValue("bytes=\(offset)-", forHTTPHeaderField: "Range") }
        let transfer = Transfer(path: path, offset: offset, sink: sink)
        let session = URLSession(configuration: .ephemeral, delegate: transfer, delegateQueue: nil)
        defer { session.finishTasksAndInvalidate() }
        let task = session.dataTask(with: request)
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                transfer.start(task, continuation)
            }
        } onCancel: {
            task.cancel()
        }
    }

    /// Hands the bytes on as they come, on the session's queue, which calls one method at a time.
    private final class Transfer: NSObject, URLSessionDataDelegate, @unchecked Sendable {
        private let path: String
        private let offset: Int
        private let sink: any DownloadSink
        private var failure: (any Error)?
        private var continuation: CheckedContinuation<Void, any Error>?

        init(path: String, offset: Int, sink: any DownloadSink) {
            self.path = path
            self.offset = offset
            self.sink = sink
        }

        func start(_ task: URLSessionDataTask, _ continuation: CheckedContinuation<Void, any Error>) {
            self.continuation = continuation
            task.resume()
        }

        func urlSession(
            _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
            completionHandler: @escaping @Sendable (URLSession.ResponseDisposition) -> Void
        ) {
            do {
                try begin(response)
                completionHandler(.allow)
            } catch {
                failure = error
                completionHandler(.cancel)
            }
        }

        /// 206 goes on at the offset that was asked for, 200 begins anew.
        private func begin(_ response: URLResponse) throws {
            guard let response = response as? HTTPURLResponse else {
                throw DownloadError.refused(path: path, "the answer isn't HTTP")
            }
            switch response.statusCode {
            case 200: try sink.begin(at: 0)
            case 206:
                let range = response.value(forHTTPHeaderField: "Content-Range") ?? ""
                guard range.hasPrefix("bytes \(offset)-") else {
                    throw DownloadError.refused(path: path, "the server answered with the range '\(range)'")
                }
                try sink.begin(at: offset)
            case 408, 429, 500...599: throw URLError(.badServerResponse)
            default: throw DownloadError.refused(path: path, "the server answered \(response.statusCode)")
            }
        }

        func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
            guard failure == nil else { return }
            do {
                try sink.write(data)
            } catch {
                failure = error
                dataTask.cancel()
            }
        }

        func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
            let outcome = failure ?? error
            continuation?.resume(with: outcome.map { .failure($0) } ?? .success(()))
            continuation = nil
        }
    }
}
