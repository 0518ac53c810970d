"""Why a model says what it says: which modules, layers and parts of a picture an answer comes from."""
