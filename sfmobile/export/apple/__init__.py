"""A bundle's Core ML packages in the form that Apple's own Swift package (apple/ml-stable-diffusion) loads."""
