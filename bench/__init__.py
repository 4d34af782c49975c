"""Speed goals as paired measurements: ours and theirs in turns, on the same machine, in one run."""
