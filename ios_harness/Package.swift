// swift-tools-version: 6.0
import PackageDescription

// `sfbench`, the command-line tool. The libraries are the package above; nothing of theirs is declared here again.

// Where the argument parser lies as sources already, as in the root that `.ci/swift-toolchain` makes, nothing is fetched.
let argumentParser: Package.Dependency =
    if let sources = Context.environment["SFMOBILE_ARGUMENT_PARSER"] {
        .package(path: sources)
    } else {
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.2.3")
    }

let package = Package(
    name: "SnapFusionTools",
    platforms: [.macOS(.v14)],
    products: [.executable(name: "sfbench", targets: ["sfbench"])],
    dependencies: [.package(name: "SnapFusion", path: ".."), argumentParser],
    targets: [
        .executableTarget(
            name: "sfbench",
            dependencies: [
                .product(name: "SnapFusionKit", package: "SnapFusion"),
                .product(name: "SnapFusionCoreML", package: "SnapFusion"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ])
    ],
    swiftLanguageModes: [.v6]
)
