r"""A runtime behind two pipes, for hosts that aren't Python: `python -m sfmobile.runtime.worker BUNDLE`.

The host starts the worker, writes to its stdin and reads from its stdout. Options: `--precision fp32|fp16` (default
fp32) and `--runtime auto|coreml|mil|torch|onnx` (default mil). The log goes to stderr; stdout carries nothing but this
protocol (a stray print lands on stderr).

Protocol, version 1
===================
Every integer is little-endian and unsigned, every float IEEE 754 little-endian. `string` is a u16 byte count followed
by that many bytes of UTF-8, without a terminator.

Hello, once each way, host first, 12 bytes:

    magic     8 bytes   "SFMPIPE\n" (53 46 4D 50 49 50 45 0A)
    version   u32       1

The worker answers with the same 12 bytes (its own version) as soon as it has read the host's; importing torch may
take a few seconds, so allow 120 s. If the host's magic or version is wrong, or the bundle can't be opened, the answer
is followed by one `error` message with id 0 and the worker exits.

Message, either way:

    length    u32       bytes that follow this field (5 ... 268,435,456)
    kind      u8        see below
    id        u32       chosen by the host, any value but 0; the reply carries the same
    body      length - 5 bytes

The host sends one request at a time and reads its reply before the next (a pipelined request waits in the pipe).
Each request has exactly one reply: the kind below, or `error`.

    kind  request    body                             kind  reply        body
    1     describe   (empty)                          129   description  UTF-8 JSON, see below
    2     load       string component                 130   loaded       f64 seconds
    3     predict    string component, tensors        131   predicted    f64 seconds, tensors
    4     unload     string component                 132   unloaded     (empty)
                                                      255   error        u16 code, u8 fatal, string sentence

`component` is a key of the manifest's `components` ("text_encoder", "unet", "decoder"). Loading a loaded component
and unloading one that isn't are no errors. `seconds` is the wall time of the load or of the prediction alone.

    tensors:  count u16 (0 ... 64), then `count` times
      name    string
      dtype   u8        1 float32, 2 int32
      rank    u8        0 ... 8
      dims    rank x u32
      data    product(dims) x 4 bytes, row-major (last axis fastest), no padding

Inputs are those the manifest records, each exactly once, in any order, with the recorded shape; float16 in the
manifest travels as float32. Outputs are all of the component's outputs, float32.

    description = {"protocol": 1, "runtime": "mil fp32 (torch 2.13 CPU)", "components": [
        {"name": "unet", "loaded": false,
         "inputs":  [{"name": "latents", "shape": [2, 4, 64, 64], "dtype": "float16"}, ...],
         "outputs": [{"name": "model_output", "shape": [2, 4, 64, 64], "dtype": "float16"}]}, ...]}

Error codes (a fatal error is the worker's last message; after any other the next request is served):

    1  protocol     bad magic, unknown kind, a length out of bounds, a body that doesn't parse
                    (fatal for magic, version and length, for then the stream has lost its frame)
    2  component    the bundle has no such component
    3  not loaded   predict on a component that isn't loaded
    4  input        an input is missing, unknown, given twice, or of the wrong shape or dtype
    5  artifact     a file of the bundle is missing, truncated, altered or from the future (fatal if at start)
    6  unavailable  this machine can't (fatal if at start)
    7  internal     a bug in the worker; the sentence names the exception, stderr has the traceback

End: the host closes the worker's stdin; the worker frees everything and exits with 0. Exit codes otherwise are the
command line's: 2 after a protocol error, 3 unavailable, 4 artifact. A worker whose host dies sees EOF, or a
broken pipe on its reply, and exits.
"""

from __future__ import annotations
