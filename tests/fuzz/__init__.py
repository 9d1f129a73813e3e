"""Fuzzing: real files of every format, changed as their structure allows, read as a user's command would read them.

formats.py   each format: its real file, how it is changed, and what reads it
mutators.py  changes of JSON, protobuf, safetensors, .npy, archives, lines and bytes
judge.py     what may come of it: a result or one sentence, in bounded time and memory
crashes/     files that were once read wrongly, kept: each is a test
__main__.py  the long run: `make fuzz`
"""
