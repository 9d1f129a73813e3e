"""The on-disk contract between Python and Swift. No torch here."""
