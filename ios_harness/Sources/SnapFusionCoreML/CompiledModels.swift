#if canImport(CoreML)
    import CoreML
    import SnapFusionKit

    /// The compiled models (.mlmodelc) of a bundle's packages: those it was built into an app with, or those of the cache.
    struct CompiledModels: Sendable {
        let bundle: ModelBundle
        let cache: CompiledCache

        /// Where compiled models lie unless something else is asked for.
        static var defaultFolder: URL {
            let caches = FileManager.default.urls(for: .cachesDirectory, in: .userDomainMask).first
            return (caches ?? FileManager.default.temporaryDirectory).appendingPathComponent("SnapFusion")
        }

        init(bundle: ModelBundle, folder: URL? = nil) {
            self.bundle = bundle
            cache = CompiledCache(folder: folder ?? CompiledModels.defaultFolder)
        }

        /// The models of a component's packages, in running order, and what had to be done for them.
        struct Found {
            var urls: [URL] = []
            /// Seconds of compiling; nil if nothing was compiled.
            var seconds: Double?
            var kind = LoadTiming.Kind.compiledAtBuild
        }

        /// The compiled models of a component's packages, each made now if there is none yet.
        func compiled(_ name: ComponentName) async throws -> Found {
            var found = Found()
            for part in try bundle.component(name).parts {
                if let path = bundle.compiled.path(of: part.package) {
                    found.urls.append(bundle.root.appendingPathComponent(path))
                    continue
                }
                let place = try cache.place(of: name, part, in: bundle)
                if cache.finds(place) {
                    if found.kind == .compiledAtBuild { found.kind = .compiledBefore }
                } else {
                    let start = ContinuousClock.now
                    try await compile(name, part, to: place)
                    found.seconds = (found.seconds ?? 0) + start.secondsSince()
                    found.kind = .compiledNow
                }
                found.urls.append(place)
            }
            return found
        }

        private func compile(_ name: ComponentName, _ part: ChunkRecord, to place: URL) async throws {
            let format = try bundle.component(name).format
            guard format == .mlprogram else {
                let found = format == .onnx ? "an ONNX file" : "an .aimodel of Core AI"
                throw UnavailableError("'\(name)' is \(found), which Core ML can't run; export a Core ML bundle.")
            }
            let package = bundle.root.appendingPathComponent(part.package)
            let made: URL
            do {
                made = try await Signposts.interval("compile") { try await MLModel.compileModel(at: package) }
            } catch {
                throw ComponentError.failed(
                    name, "'\(package.lastPathComponent)' can't be compiled: \(error.localizedDescription)")
            }
            cache.evict()
            try cache.keep(made, at: place)
        }

        /// Forgets the compiled models of a component, so that the next load is a cold one.
        func forget(_ name: ComponentName) throws {
            for part in try bundle.component(name).parts {
                cache.remove(try cache.place(of: name, part, in: bundle))
            }
        }
    }
#endif
