"""Fine-tuning: low-rank adapters through peft."""
