"""`latentsync train-unet`: windows of frames, frozen networks, objective, validation and the run."""
