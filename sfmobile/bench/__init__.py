"""What a bundle costs where it runs: latency, memory, the machine, and the reports that say so."""
