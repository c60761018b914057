"""A step of fine-tuning with LoRA beside those of peers, each in a process of its own."""
