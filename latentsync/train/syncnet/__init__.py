"""`latentsync train-syncnet`: pairs of frames and speech, the objective, the validation and the run."""
