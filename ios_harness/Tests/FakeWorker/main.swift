import Foundation

// A worker for the tests of ProcessRunner: `FakeWorker MODE` speaks the protocol of sfmobile/runtime/worker.py, and breaks
// it as MODE says. It encodes by itself, without SnapFusionKit. Its components fit TestBundle.

let mode = CommandLine.arguments.dropFirst().first ?? "good"

func send(_ data: Data) { FileHandle.standardOutput.write(data) }

func little<Value: FixedWidthInteger>(_ value: Value) -> Data { withUnsafeBytes(of: value.littleEndian) { Data($0) } }

func string(_ text: String) -> Data { little(UInt16(text.utf8.count)) + Data(text.utf8) }

func receive(_ count: Int) -> Data {
    var data = Data()
    while data.count < count {
        guard let piece = try? FileHandle.standardInput.read(upToCount: count - data.count), !piece.isEmpty else {
            exit(0)
        }
        data += piece
    }
    return data
}

func number(_ data: Data) -> Int { data.reversed().reduce(0) { $0 << 8 | Int($1) } }

func reply(_ kind: UInt8, _ id: UInt32, _ body: Data) {
    send(little(UInt32(body.count + 5)) + Data([kind]) + little(id) + body)
}

func seconds(_ value: Double) -> Data { little(value.bitPattern) }

func tensor(_ name: String, _ shape: [Int], _ value: Float) -> Data {
    var data = string(name) + Data([1, UInt8(shape.count)])
    for size in shape { data += little(UInt32(size)) }
    for _ in 0..<shape.reduce(1, *) { data += little(value.bitPattern) }
    return data
}

func hang() -> Never { while true { sleep(1) } }

if mode == "dead at start" {
    FileHandle.standardError.write(Data("loading\nno module named sfmobile\n".utf8))
    exit(7)
}
if mode == "silent" { hang() }
let hello = receive(12)
if mode == "no protocol" { send(Data("Hello, world".utf8)) }
send(mode == "new version" ? hello.prefix(8) + little(UInt32(2)) : hello)
if mode == "bad bundle" {
    reply(255, 0, little(UInt16(5)) + Data([1]) + string("'x/manifest.json' is missing."))
    exit(4)
}

var predictions = 0
while true {
    let length = number(receive(4))
    let message = receive(length)
    let kind = message[message.startIndex]
    let id = UInt32(number(message.dropFirst().prefix(4)))
    let body = message.dropFirst(5)
    switch kind {
    case 1:
        reply(129, id, Data(#"{"protocol": 1, "runtime": "fake (\#(getpid()))", "components": []}"#.utf8))
    case 2:
        if mode == "dead on load" { exit(9) }
        if mode == "refuses load" {
            reply(255, id, little(UInt16(2)) + Data([0]) + string("The bundle has no such component."))
            continue
        }
        reply(130, id, seconds(0.25))
    case 4: reply(132, id, Data())
    default:
        predictions += 1
        let name = String(decoding: body.dropFirst(2).prefix(number(body.prefix(2))), as: UTF8.self)
        let rows = mode == "one row" ? 1 : 2
        var outputs = [
            "text_encoder": tensor("encoder_hidden_states", [1, 2, 1, 77], 1),
            "unet": tensor("model_output", [rows, 4, 4, 4], 0.5),
            "decoder": tensor("image", [1, 3, 8, 8], 0),
        ]
        switch mode {
        case "dead on predict":
            FileHandle.standardError.write(Data("Killed\n".utf8))
            exit(9)
        case "hangs": hang()
        case "half a reply":
            send(little(UInt32(1000)) + Data([131]))
            exit(0)
        case "endless": send(little(UInt32.max) + Data([131]))
        case "other id": reply(131, id &+ 1, seconds(0) + little(UInt16(0)))
        case "other kind": reply(130, id, seconds(0))
        case "short body":
            reply(131, id, seconds(0) + little(UInt16(1)) + string("image") + Data([1, 1]) + little(UInt32(9)))
        case "long body": reply(131, id, seconds(0) + little(UInt16(0)) + Data([1, 2, 3]))
        case "unknown type": reply(131, id, seconds(0) + little(UInt16(1)) + string("image") + Data([9, 0]))
        case "huge tensor":
            let sizes = little(UInt32.max) + little(UInt32.max)
            reply(131, id, seconds(0) + little(UInt16(1)) + string("image") + Data([1, 2]) + sizes)
        case "infinite in step 2":
            if predictions == 4 { outputs["unet"] = tensor("model_output", [2, 4, 4, 4], .infinity) }
            fallthrough
        default: reply(131, id, seconds(0.125) + little(UInt16(1)) + (outputs[name] ?? Data()))
        }
    }
}
