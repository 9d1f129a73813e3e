#if os(Linux) || os(macOS)
    import Foundation

    /// Runs the components in a worker process, `python -m sfmobile.runtime.worker BUNDLE`, over its pipes.
    ///
    /// The worker is started with the first request. One that dies, hangs, or breaks the protocol is ended, and every
    /// later request fails with the same error.
    public actor ProcessRunner: ComponentRunner {
        public struct Timeouts: Sendable {
            /// Seconds until the worker has to have answered: its start (it imports torch), a load, a prediction.
            public var start = 120.0
            public var load = 600.0
            public var predict = 600.0
            /// Until it has to have ended by itself.
            public var stop = 5.0

            public init() {}
        }

        /// Program and arguments; the program is a path, or found on PATH.
        public nonisolated let command: [String]
        private let engine: RuntimeRecord.Engine
        private let precision: RuntimeRecord.Precision?
        private let timeouts: Timeouts
        private let queue = DispatchQueue(label: "sfmobile.worker")
        private var worker: Worker?
        private var failure: WorkerError?
        private var lastID: UInt32 = 0
        private var loaded: Set<ComponentName> = []

        public init(
            command: [String], engine: RuntimeRecord.Engine = .mil, precision: RuntimeRecord.Precision? = nil,
            timeouts: Timeouts = Timeouts()
        ) {
            self.command = command
            self.engine = engine
            self.precision = precision
            self.timeouts = timeouts
        }

        /// The usual worker: `python` runs sfmobile's on `bundle`.
        public init(
            python: String, bundle: ModelBundle, engine: RuntimeRecord.Engine, precision: RuntimeRecord.Precision,
            timeouts: Timeouts = Timeouts()
        ) {
            self.init(
                command: [
                    python, "-m", "sfmobile.runtime.worker", bundle.root.path, "--runtime", engine.rawValue,
                    "--precision", precision.rawValue,
                ], engine: engine, precision: precision, timeouts: timeouts)
        }

        deinit { worker?.end(within: 0) }

        public func describe() async throws -> RuntimeRecord {
            let body = try await request(.describe, Data(), seconds: timeouts.predict, during: "describe")
            guard case .object(let members)? = try? OrderedJSON(parsing: body),
                case .string(let description)? = members.first(where: { $0.key == "runtime" })?.value
            else { throw fail(.badProtocol(during: "describe", "its description has no runtime")) }
            return RuntimeRecord(engine: engine, description: description, precision: precision)
        }

        @discardableResult
        public func load(_ name: ComponentName) async throws -> LoadTiming {
            let known = loaded.contains(name)
            var body = Data()
            try WorkerProtocol.encode(string: name.rawValue, into: &body)
            let during = "load of \(name)"
            let reply = try await request(.load, body, seconds: timeouts.load, during: during)
            let seconds = try parse(reply, during) { try $0.double(of: "seconds") }
            loaded.insert(name)
            return known ? .alreadyLoaded : LoadTiming(load: seconds)
        }

        public func predict(_ name: ComponentName, inputs: [String: HostTensor]) async throws -> ComponentPrediction {
            guard loaded.contains(name) else { throw ComponentError.notLoaded(name) }
            var body = Data()
            try WorkerProtocol.encode(string: name.rawValue, into: &body)
            try WorkerProtocol.encode(tensors: inputs, into: &body)
            let during = "prediction of \(name)"
            let reply = try await request(.predict, body, seconds: timeouts.predict, during: during)
            return try parse(reply, during) {
                let seconds = try $0.double(of: "seconds")
                return ComponentPrediction(outputs: try $0.tensors(), seconds: seconds)
            }
        }

        public func unload(_ name: ComponentName) async {
            guard loaded.remove(name) != nil, worker != nil else { return }
            var body = Data()
            try? WorkerProtocol.encode(string: name.rawValue, into: &body)
            // An unload that fails has ended the worker, which frees everything as well.
            _ = try? await request(.unload, body, seconds: timeouts.predict, during: "unload of \(name)")
        }

        public func unloadAll() async {
            for name in loaded { await unload(name) }
        }

        public func memory() async -> MemorySample? { worker.flatMap { MemorySample(process: $0.identifier) } }

        /// Ends the worker: closes its stdin, and after a grace period kills it.
        public func close() {
            worker?.end(within: timeouts.stop)
            worker = nil
            loaded = []
        }

        private func parse<Value>(
            _ reply: Data, _ during: String, _ body: (inout WorkerProtocol.Reader) throws -> Value
        ) throws -> Value {
            do {
                var reader = WorkerProtocol.Reader(reply)
                let value = try body(&reader)
                try reader.finish("the reply")
                return value
            } catch let error as WorkerProtocol.Malformed {
                throw fail(.badProtocol(during: during, error.problem))
            }
        }

        /// Ends the worker for good; what is asked of it from now on fails with the same error.
        private func fail(_ error: WorkerError) -> WorkerError {
            worker?.end(within: 0)
            worker = nil
            loaded = []
            failure = error
            return error
        }

        private func request(
            _ kind: WorkerProtocol.RequestKind, _ body: Data, seconds: Double, during: String
        ) async throws -> Data {
            if let failure { throw failure }
            try Task.checkCancellation()
            let worker = try await started()
            lastID = lastID == .max ? 1 : lastID + 1
            let id = lastID
            let message = try WorkerProtocol.frame(kind: kind.rawValue, id: id, body: body)
            let (replyKind, replyID, reply) = try await exchange(worker, seconds: seconds, during: during) {
                channel, deadline in
                do {
                    try channel.write(message, until: deadline)
                } catch PipeChannel.Failure.closed {
                    // A worker that has ended may have said why before.
                }
                return try readMessage(channel, until: deadline)
            }
            if replyKind == WorkerProtocol.errorKind && (replyID == id || replyID == 0) {
                throw try refusal(reply, during)
            }
            guard replyKind == kind.reply, replyID == id else {
                throw fail(
                    .badProtocol(
                        during: during, "expected reply \(kind.reply) to \(id), found \(replyKind) to \(replyID)"))
            }
            return reply
        }

        private func refusal(_ body: Data, _ during: String) throws -> WorkerError {
            let (code, fatal, sentence) = try parse(body, during) { reader in
                (
                    try reader.integer(UInt16.self, of: "an error code"), try reader.integer(UInt8.self, of: "a flag"),
                    try reader.string(of: "an error's sentence")
                )
            }
            let error = WorkerError.refused(during: during, code: Int(code), sentence)
            return fatal == 0 ? error : fail(error)
        }

        private func started() async throws -> Worker {
            if let worker { return worker }
            let worker = try Worker(command: command)
            self.worker = worker
            let during = "its start"
            let hello = try await exchange(worker, seconds: timeouts.start, during: during) { channel, deadline in
                try channel.write(WorkerProtocol.hello(), until: deadline)
                return try channel.read(WorkerProtocol.hello().count, until: deadline)
            }
            guard hello.prefix(8) == WorkerProtocol.magic else {
                throw fail(
                    .badProtocol(
                        during: during,
                        "its greeting isn't the protocol's; is the command '\(command.joined(separator: " "))' right?"))
            }
            guard hello == WorkerProtocol.hello() else {
                throw fail(
                    .badProtocol(during: during, "it speaks another version of the protocol; update one of the two"))
            }
            return worker
        }

        /// Blocking input and output, on a thread of its own; a cancelled task ends the worker instead of waiting for it.
        private func exchange<Value: Sendable>(
            _ worker: Worker, seconds: Double, during: String,
            _ body: @escaping @Sendable (PipeChannel, ContinuousClock.Instant) throws -> Value
        ) async throws -> Value {
            let deadline = ContinuousClock.now + .seconds(seconds)
            do {
                return try await withTaskCancellationHandler {
                    try await withCheckedThrowingContinuation { continuation in
                        queue.async { continuation.resume(with: Result { try body(worker.channel, deadline) }) }
                    }
                } onCancel: {
                    worker.kill()
                }
            } catch {
                if Task.isCancelled {
                    _ = fail(.died(during: during, exitCode: nil, log: "the run was cancelled"))
                    failure = nil
                    throw CancellationError()
                }
                switch error {
                case PipeChannel.Failure.timedOut: throw fail(.timedOut(during: during, seconds: seconds))
                case PipeChannel.Failure.closed:
                    let code = worker.end(within: 1)
                    throw fail(.died(during: during, exitCode: code, log: worker.lastWords()))
                case PipeChannel.Failure.system(let number):
                    throw fail(.died(during: during, exitCode: nil, log: String(cString: strerror(number))))
                case let malformed as WorkerProtocol.Malformed:
                    throw fail(.badProtocol(during: during, malformed.problem))
                default: throw error
                }
            }
        }
    }

    private func readMessage(
        _ channel: PipeChannel, until deadline: ContinuousClock.Instant
    ) throws -> (kind: UInt8, id: UInt32, body: Data) {
        var head = WorkerProtocol.Reader(try channel.read(4, until: deadline))
        let length = Int(try head.integer(UInt32.self, of: "a length"))
        guard (5...WorkerProtocol.maxLength).contains(length) else {
            throw WorkerProtocol.Malformed(problem: "a message of \(length) bytes")
        }
        let message = try channel.read(length, until: deadline)
        var reader = WorkerProtocol.Reader(message.prefix(5))
        return (
            try reader.integer(UInt8.self, of: "a kind"), try reader.integer(UInt32.self, of: "an id"),
            message.dropFirst(5)
        )
    }

    /// The worker's process, with its pipes and the file that takes its stderr.
    private final class Worker: Sendable {
        let channel: PipeChannel
        let identifier: Int32
        private let process: Process
        private let ends: (input: FileHandle, output: FileHandle)
        private let log: URL

        init(command: [String]) throws {
            let text = command.joined(separator: " ")
            guard let program = command.first, let executable = Worker.find(program) else {
                throw WorkerError.notStarted(command: text, "there is no such program")
            }
            log = FileManager.default.temporaryDirectory.appendingPathComponent(
                "sfbench-worker-\(UUID().uuidString).log")
            guard FileManager.default.createFile(atPath: log.path, contents: nil),
                let logHandle = try? FileHandle(forWritingTo: log)
            else { throw WorkerError.notStarted(command: text, "'\(log.path)' can't be written") }
            let (input, output) = (Pipe(), Pipe())
            process = Process()
            process.executableURL = URL(fileURLWithPath: executable)
            process.arguments = Array(command.dropFirst())
            process.standardInput = input
            process.standardOutput = output
            process.standardError = logHandle
            do {
                try process.run()
            } catch {
                try? FileManager.default.removeItem(at: log)
                throw WorkerError.notStarted(command: text, error.localizedDescription)
            }
            identifier = process.processIdentifier
            ends = (input.fileHandleForWriting, output.fileHandleForReading)
            channel = PipeChannel(input: ends.output.fileDescriptor, output: ends.input.fileDescriptor)
        }

        func kill() { Foundation.kill(identifier, SIGKILL) }

        /// Closes the worker's stdin and waits for its end; kills it after `seconds`. Returns its exit code if it had one.
        @discardableResult
        func end(within seconds: Double) -> Int32? {
            try? ends.input.close()
            let deadline = ContinuousClock.now + .seconds(seconds)
            while process.isRunning && deadline.secondsSince() < 0 { usleep(2000) }
            if process.isRunning {
                kill()
                while process.isRunning { usleep(1000) }
                return nil
            }
            return process.terminationReason == .exit ? process.terminationStatus : nil
        }

        /// The last line of its stderr.
        func lastWords() -> String {
            let text = (try? String(contentsOf: log, encoding: .utf8)) ?? ""
            return text.split(whereSeparator: \.isNewline).last.map(String.init) ?? ""
        }

        deinit {
            end(within: 0)
            try? ends.output.close()
            try? FileManager.default.removeItem(at: log)
        }

        private static func find(_ program: String) -> String? {
            let paths = ProcessInfo.processInfo.environment["PATH"]?.split(separator: ":").map(String.init) ?? []
            let candidates = program.contains("/") ? [program] : paths.map { "\($0)/\(program)" }
            return candidates.first { FileManager.default.isExecutableFile(atPath: $0) }
        }
    }

    extension MemorySample {
        /// Memory of another process, where the system tells (Linux).
        init?(process: Int32) {
            guard let text = try? String(contentsOfFile: "/proc/\(process)/status", encoding: .utf8) else { return nil }
            var sizes: [Substring: Int] = [:]
            for line in text.split(separator: "\n") {
                let parts = line.split(whereSeparator: { $0 == ":" || $0 == "\t" || $0 == " " })
                if parts.count >= 2, let size = Int(parts[1]) { sizes[parts[0]] = size * 1024 }
            }
            guard let total = sizes["VmRSS"] else { return nil }
            self.init(
                total: total, anonymous: sizes["RssAnon"].map { $0 + (sizes["RssShmem"] ?? 0) },
                fileBacked: sizes["RssFile"])
        }
    }
#endif
