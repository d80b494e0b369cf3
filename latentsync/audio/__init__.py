"""What the network hears: Whisper features and their windows."""
