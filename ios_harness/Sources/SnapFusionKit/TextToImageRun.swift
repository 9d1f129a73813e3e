extension TextToImage {
    /// What to draw. Nil takes the model's default.
    public struct Request: Sendable {
        public var prompt: String
        public var negativePrompt: String
        public var seed: UInt64
        public var steps: Int?
        public var guidanceScale: Double?
        /// One of `SamplerRecord.names`.
        public var sampler: String?
        /// How much noise is drawn anew on the way; of ddim and tcd.
        public var eta: Double?
        /// How both prompts are read.
        public var syntax: Prompt.Syntax
        /// Pictures for the bundle's ControlNets.
        public var controls: [Control] = []
        /// The picture to start from, to repaint or to edit.
        public var given: GivenPicture?
        /// Whether and how each step carries a picture of what it predicts.
        public var previews: Previews
        /// Whether the picture is looked at before it is shown, where the bundle has what that takes.
        public var isChecked = true

        public enum Previews: Sendable, Equatable {
            case none
            /// At the resolution of the latents, by an affine map; costs one decoder call before the loop.
            case linear
            /// By the decoder, one call a step; needs it beside the UNet in memory.
            case decoded
        }

        public init(
            prompt: String, negativePrompt: String = "", seed: UInt64 = 0, steps: Int? = nil,
            guidanceScale: Double? = nil, sampler: String? = nil, eta: Double? = nil, syntax: Prompt.Syntax = .plain,
            given: GivenPicture? = nil,
            previews: Previews = .none
        ) {
            self.prompt = prompt
            self.negativePrompt = negativePrompt
            self.seed = seed
            self.steps = steps
            self.guidanceScale = guidanceScale
            self.sampler = sampler
            self.eta = eta
            self.syntax = syntax
            self.given = given
            self.previews = previews
        }
    }

    /// One evaluation of the UNet in the loop; a sampler may take more of them than steps.
    public struct Step: Sendable {
        /// 0 to `count` - 1.
        public let index: Int
        public let count: Int
        public let timestep: Float
        /// The latents behind this step, the picture it predicts and the guided output, each (1, C, H, W).
        public let latents: HostTensor
        public let denoised: HostTensor
        public let modelOutput: HostTensor
        /// Wall time of the step. With previews a step begins while the one before is shown.
        public let seconds: Double
        /// The picture this step predicts, if the request asked for previews.
        public let preview: GeneratedPicture?
    }

    /// What a run tells as it goes on, in this order.
    public enum Event: Sendable {
        /// A component is ready; the seconds it took to load, 0 if it was loaded already.
        case loaded(ComponentName, seconds: Double)
        /// The prompts' token ids, chunk by chunk, and the time the text encoder took for both prompts.
        case encoded(tokens: [Int32], negativeTokens: [Int32]?, seconds: Double)
        /// The noise the loop starts from.
        case noise(HostTensor)
        case step(Step)
        /// What the bundle's safety checker says; never without one. A flagged picture is black.
        case checked(SafetyChecker.Verdict, seconds: Double)
        /// The picture; the time of the decoder, and of everything from the prompt to the pixels but loading.
        case picture(GeneratedPicture, decoderSeconds: Double, totalSeconds: Double)
    }

    /// The events of one run. Iterating in a task that is cancelled throws `CancellationError`: a stream alone would
    /// just end, as if there were nothing more to tell.
    public struct Events: AsyncSequence, Sendable {
        public typealias Element = Event

        let stream: AsyncThrowingStream<Event, any Error>

        public struct AsyncIterator: AsyncIteratorProtocol {
            var base: AsyncThrowingStream<Event, any Error>.AsyncIterator

            public mutating func next() async throws -> Event? {
                if let event = try await base.next() { return event }
                try Task.checkCancellation()
                return nil
            }
        }

        public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(base: stream.makeAsyncIterator()) }
    }
}
