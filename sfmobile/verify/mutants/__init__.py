"""Single faults put into a bundle on purpose: what a proof must catch, if it is one.

A mutant is a copy of a bundle with one fault and with checksums that fit it, as a slip in an exporter would make it:
the manifest says that all is well. Faults are made in what ships (weight files, programs, manifest, tokenizer), not
through the code that wrote it.
"""
