"""From a prompt to a picture: tokenizer, noise, DDIM, guidance, the loop. Arrays are numpy's."""
