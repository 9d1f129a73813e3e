// swift-tools-version: 6.0
import PackageDescription

// The two libraries, for apps that depend on this repository by its address. They depend on nothing but the system.
// The command-line tool, which needs an argument parser, is the package in ios_harness: no target is in both.
let package = Package(
    name: "SnapFusion",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "SnapFusionKit", targets: ["SnapFusionKit"]),
        .library(name: "SnapFusionCoreML", targets: ["SnapFusionCoreML"]),
    ],
    targets: [
        .target(name: "SnapFusionKit", path: "ios_harness/Sources/SnapFusionKit"),
        .target(
            name: "SnapFusionCoreML", dependencies: ["SnapFusionKit"], path: "ios_harness/Sources/SnapFusionCoreML"),
        // A worker that misbehaves on request, for the tests of the process runner.
        .executableTarget(name: "FakeWorker", dependencies: ["SnapFusionKit"], path: "ios_harness/Tests/FakeWorker"),
        .testTarget(
            name: "SnapFusionKitTests", dependencies: ["SnapFusionKit", "FakeWorker"],
            path: "ios_harness/Tests/SnapFusionKitTests"),
    ],
    // Checks concurrency completely. Warnings are errors where CI says so (`make swift`), never in somebody's app.
    swiftLanguageModes: [.v6]
)
