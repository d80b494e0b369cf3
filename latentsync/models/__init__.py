"""The networks: U-Net, VAE."""
