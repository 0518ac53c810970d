"""One loaded model: where its parts are, how it is run, observed and changed. Architectures are known here alone."""
