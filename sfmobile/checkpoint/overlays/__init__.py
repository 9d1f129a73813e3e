"""What is laid over a checkpoint when it is opened: LoRAs, textual inversion, another autoencoder. One file each."""
