"""What ``model.from_pretrained`` may name, read without torch: a folder, or a GGUF file."""
