// swift-tools-version: 6.0
import PackageDescription

// Language mode 6 checks concurrency completely; warnings fail the build.
let strict: [SwiftSetting] = [.swiftLanguageMode(.v6), .unsafeFlags(["-warnings-as-errors"])]

let package = Package(
    name: "SnapFusion",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "SnapFusionKit", targets: ["SnapFusionKit"]),
        .library(name: "SnapFusionCoreML", targets: ["SnapFusionCoreML"]),
        .executable(name: "sfbench", targets: ["sfbench"]),
    ],
    targets: [
        .target(name: "SnapFusionKit", swiftSettings: strict),
        .target(name: "SnapFusionCoreML", dependencies: ["SnapFusionKit"], swiftSettings: strict),
        .executableTarget(name: "sfbench", dependencies: ["SnapFusionKit", "SnapFusionCoreML"], swiftSettings: strict),
        // A worker that misbehaves on request, for the tests of the process runner.
        .executableTarget(
            name: "FakeWorker", dependencies: ["SnapFusionKit"], path: "Tests/FakeWorker", swiftSettings: strict),
        .testTarget(
            name: "SnapFusionKitTests", dependencies: ["SnapFusionKit", "FakeWorker"], swiftSettings: strict),
    ]
)
