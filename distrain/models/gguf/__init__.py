"""GGUF files (llama.cpp) of the Llama family, turned once into Hugging Face folders."""
