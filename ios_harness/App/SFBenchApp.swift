import SwiftUI

@main
struct SFBenchApp: App {
    /// The performance tests run inside this app, and measure alone: nothing of the screen may load a model beside them.
    private let isTested = ProcessInfo.processInfo.environment["XCTestConfigurationFilePath"] != nil

    var body: some Scene {
        WindowGroup {
            if isTested {
                Text("The tests are running")
            } else {
                ContentView()
            }
        }
    }
}
