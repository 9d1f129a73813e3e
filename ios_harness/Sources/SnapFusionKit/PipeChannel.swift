#if os(Linux) || os(macOS)
    import Foundation

    #if canImport(Glibc)
        import Glibc
    #else
        import Darwin
    #endif

    /// Two pipe ends, read and written with a deadline. The descriptors belong to the caller.
    struct PipeChannel: Sendable {
        enum Failure: Error, Equatable {
            case timedOut
            /// The other side closed its end.
            case closed
            case system(Int32)
        }

        let input: Int32
        let output: Int32

        /// Makes both ends non-blocking, and a write to a closed pipe an error instead of a signal.
        init(input: Int32, output: Int32) {
            self.input = input
            self.output = output
            for descriptor in [input, output] {
                _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
            }
            _ = signal(SIGPIPE, SIG_IGN)
        }

        func write(_ data: Data, until deadline: ContinuousClock.Instant) throws {
            let bytes = [UInt8](data)
            var start = 0
            while start < bytes.count {
                try wait(for: output, event: Int16(POLLOUT), until: deadline)
                let count = bytes[start...].withUnsafeBytes { systemWrite(output, $0.baseAddress, $0.count) }
                if count >= 0 {
                    start += count
                } else if errno == EPIPE {
                    throw Failure.closed
                } else if errno != EAGAIN && errno != EINTR {
                    throw Failure.system(errno)
                }
            }
        }

        func read(_ count: Int, until deadline: ContinuousClock.Instant) throws -> Data {
            var bytes = [UInt8](repeating: 0, count: count)
            var start = 0
            while start < count {
                try wait(for: input, event: Int16(POLLIN), until: deadline)
                let found = bytes[start...].withUnsafeMutableBytes { systemRead(input, $0.baseAddress, $0.count) }
                if found > 0 {
                    start += found
                } else if found == 0 {
                    throw Failure.closed
                } else if errno != EAGAIN && errno != EINTR {
                    throw Failure.system(errno)
                }
            }
            return Data(bytes)
        }

        private func wait(for descriptor: Int32, event: Int16, until deadline: ContinuousClock.Instant) throws {
            while true {
                let left = -deadline.secondsSince()
                guard left > 0 else { throw Failure.timedOut }
                var polled = pollfd(fd: descriptor, events: event, revents: 0)
                let ready = poll(&polled, 1, Int32(min(left * 1000 + 1, 1_000_000)))
                if ready > 0 { return }
                if ready < 0 && errno != EINTR { throw Failure.system(errno) }
            }
        }
    }

    private func systemRead(_ descriptor: Int32, _ buffer: UnsafeMutableRawPointer?, _ count: Int) -> Int {
        #if canImport(Glibc)
            Glibc.read(descriptor, buffer, count)
        #else
            Darwin.read(descriptor, buffer, count)
        #endif
    }

    private func systemWrite(_ descriptor: Int32, _ buffer: UnsafeRawPointer?, _ count: Int) -> Int {
        #if canImport(Glibc)
            Glibc.write(descriptor, buffer, count)
        #else
            Darwin.write(descriptor, buffer, count)
        #endif
    }
#endif
