import SwiftUI

@main
struct SFBenchApp: App {
    var body: some Scene {
        WindowGroup { ContentView() }
    }
}
