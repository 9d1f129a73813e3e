#if canImport(CoreML)
    import CoreML
    import SnapFusionKit

    /// Compiled models (.mlmodelc) of a bundle's packages, kept in a folder under the checksums of what they were made from.
    struct CompiledModels: Sendable {
        let bundle: ModelBundle
        let folder: URL

        /// Where compiled models lie unless something else is asked for.
        static var defaultFolder: URL {
            let caches = FileManager.default.urls(for: .cachesDirectory, in: .userDomainMask).first
            return (caches ?? FileManager.default.temporaryDirectory).appendingPathComponent("SnapFusion")
        }

        /// The compiled models of a component's packages, in running order.
        func compiled(_ name: ComponentName) async throws -> [URL] {
            var urls: [URL] = []
            for part in try bundle.component(name).parts { urls.append(try await compiled(name, part)) }
            return urls
        }

        /// The compiled model of one package, made now if there is none yet. A package that is compiled already is itself.
        private func compiled(_ name: ComponentName, _ part: ChunkRecord) async throws -> URL {
            let package = try checkedPackage(name, part)
            if package.pathExtension == "mlmodelc" { return package }
            let kept = try place(of: name, part)
            if FileManager.default.fileExists(atPath: kept.path) { return kept }
            let made: URL
            do {
                made = try await MLModel.compileModel(at: package)
            } catch {
                throw ComponentError.failed(
                    name, "'\(package.lastPathComponent)' can't be compiled: \(error.localizedDescription)")
            }
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            // Another run may have been faster; what it kept is the same.
            do {
                try FileManager.default.moveItem(at: made, to: kept)
            } catch  where FileManager.default.fileExists(atPath: kept.path) {
                try? FileManager.default.removeItem(at: made)
            }
            return kept
        }

        /// Forgets the compiled models of a component, so that the next load is a cold one.
        func forget(_ name: ComponentName) throws {
            for part in try bundle.component(name).parts {
                try? FileManager.default.removeItem(at: place(of: name, part))
            }
        }

        private func checkedPackage(_ name: ComponentName, _ part: ChunkRecord) throws -> URL {
            guard try bundle.component(name).format == .mlprogram else {
                throw UnavailableError("'\(name)' is an ONNX file, which Core ML can't run; export a Core ML bundle.")
            }
            return bundle.root.appendingPathComponent(part.package)
        }

        private func place(of name: ComponentName, _ part: ChunkRecord) throws -> URL {
            var digest = SHA256Digest()
            for (path, record) in try bundle.component(name).files(of: part).sorted(by: { $0.key < $1.key }) {
                digest.update(Data("\(path) \(record.sha256)\n".utf8))
            }
            return folder.appendingPathComponent("\(name)-\(digest.hexadecimal().prefix(16)).mlmodelc")
        }
    }
#endif
