"""LatentSync: audio-conditioned latent diffusion for lip sync."""

__version__ = "0.1.0"
