"""Text and token ids: tokenizers, the engines that encode for them, the form of a prompt."""
