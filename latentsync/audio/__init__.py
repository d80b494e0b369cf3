"""Audio features: Whisper states, mel spectrograms, MFCC, and which of them belong to a frame."""
