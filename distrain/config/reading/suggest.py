"""Which word was meant: near matches, and what other tools call the same thing."""

import difflib
from collections.abc import Collection, Sequence

FOREIGN_NAMES: dict[str, tuple[str, str]] = {
    # Name -> (whose it is, what to use here).
    "lr": ("torch's", "optimizer.learning_rate"),
    "init_lr": ("litgpt's", "optimizer.learning_rate"),
    "cutoff_len": ("LLaMA-Factory's", "training.sequence_length"),
    "seq_len": ("torchtitan's", "training.sequence_length"),
    "seq_length": ("Megatron's", "training.sequence_length"),
    "sequence_len": ("axolotl's", "training.sequence_length"),
    "max_seq_len": ("torchtune's", "training.sequence_length"),
    "max_seq_length": ("litgpt's and TRL's", "training.sequence_length"),
    "max_length": ("TRL's", "training.sequence_length"),
    "context_length": ("a common", "training.sequence_length"),
    "block_size": ("nanoGPT's", "training.sequence_length"),
    "per_device_train_batch_size": ("Hugging Face's", "training.micro_batch_size"),
    "batch_size": (
        "a common",
        "training.global_batch_size (all ranks) or training.micro_batch_size",
    ),
    "train_batch_size": ("DeepSpeed's", "training.global_batch_size"),
    "train_micro_batch_size_per_gpu": ("DeepSpeed's", "training.micro_batch_size"),
    "local_batch_size": ("torchtitan's", "training.micro_batch_size"),
    "steps": ("torchtitan's", "training.max_steps"),
    "max_iters": ("nanoGPT's", "training.max_steps"),
    "train_iters": ("Megatron's", "training.max_steps"),
    "num_train_epochs": ("Hugging Face's", "training.num_epochs"),
    "epochs": ("torchtune's", "training.num_epochs"),
    "dtype": ("torchtune's", "training.precision"),
    "bf16": ("Hugging Face's", "training.precision: bf16"),
    "fp16": ("Hugging Face's", "training.precision (bf16 or fp32)"),
    "max_norm": ("torchtitan's", "optimizer.max_grad_norm"),
    "grad_clip": ("nanoGPT's", "optimizer.max_grad_norm"),
    "clip_grad": ("Megatron's", "optimizer.max_grad_norm"),
    "gradient_clipping": ("DeepSpeed's", "optimizer.max_grad_norm"),
    "adam_beta1": ("Hugging Face's", "optimizer.betas, a list of two"),
    "adam_beta2": ("Hugging Face's", "optimizer.betas, a list of two"),
    "beta1": ("nanoGPT's", "optimizer.betas, a list of two"),
    "beta2": ("nanoGPT's", "optimizer.betas, a list of two"),
    "adam_epsilon": ("Hugging Face's", "optimizer.eps"),
    "optim": ("Hugging Face's", "optimizer.name"),
    "lr_scheduler_type": ("Hugging Face's", "lr_scheduler.name"),
    "lr_decay_style": ("Megatron's", "lr_scheduler.name"),
    "lr_warmup_steps": ("litgpt's", "lr_scheduler.warmup_steps"),
    "warmup_iters": ("nanoGPT's", "lr_scheduler.warmup_steps"),
    "num_warmup_steps": ("Hugging Face's", "lr_scheduler.warmup_steps"),
    "warmup_ratio": ("Hugging Face's", "lr_scheduler.warmup_steps, a number of steps"),
    "min_lr": ("nanoGPT's", "lr_scheduler.min_lr_ratio, a fraction of the learning rate"),
    "n_layer": ("GPT-2's", "model.num_hidden_layers"),
    "n_layers": ("torchtitan's", "model.num_hidden_layers"),
    "num_layers": ("Megatron's", "model.num_hidden_layers"),
    "n_head": ("GPT-2's", "model.num_attention_heads"),
    "n_heads": ("torchtitan's", "model.num_attention_heads"),
    "num_heads": ("torchtune's", "model.num_attention_heads"),
    "n_kv_heads": ("Meta's", "model.num_key_value_heads"),
    "num_kv_heads": ("torchtune's", "model.num_key_value_heads"),
    "n_embd": ("GPT-2's", "model.hidden_size"),
    "d_model": ("the Transformer paper's", "model.hidden_size"),
    "dim": ("Meta's", "model.hidden_size"),
    "embed_dim": ("torchtune's", "model.hidden_size"),
    "ffn_hidden_size": ("Megatron's", "model.intermediate_size"),
    "d_ff": ("the Transformer paper's", "model.intermediate_size"),
    "model_name_or_path": ("Hugging Face's", "model.from_pretrained"),
    "base_model": ("axolotl's", "model.from_pretrained"),
    "norm_eps": ("torchtitan's", "model.rms_norm_eps"),
    "rope_base": ("torchtune's", "model.rope_theta"),
    "lora_r": ("axolotl's", "lora.r"),
    "lora_rank": ("LLaMA-Factory's", "lora.r"),
    "rank": ("torchtune's", "lora.r"),
    "lora_alpha": ("peft's", "lora.alpha"),
    "lora_dropout": ("peft's", "lora.dropout"),
    "lora_target": ("LLaMA-Factory's", "lora.target_modules"),
    "lora_target_modules": ("axolotl's", "lora.target_modules"),
    "save_interval": ("Megatron's", "checkpoint.save_steps"),
    "save_total_limit": ("Hugging Face's", "checkpoint.keep_last"),
    "keep_latest_k": ("torchtitan's", "checkpoint.keep_last"),
    "async_mode": ("torchtitan's", "checkpoint.async_save"),
    "eval_interval": ("nanoGPT's", "eval.eval_steps"),
    "eval_iters": ("Megatron's", "eval.max_batches"),
    "log_interval": ("Megatron's", "logging.logging_steps"),
    "log_freq": ("torchtitan's", "logging.logging_steps"),
    "wandb_project": ("axolotl's", "logging.wandb.project"),
    "report_to": ("Hugging Face's", "logging.wandb"),
    "data_parallel_shard_degree": ("torchtitan's", "parallelism.data_parallel_shard"),
    "data_parallel_replicate_degree": ("torchtitan's", "parallelism.data_parallel_replicate"),
    "dp_shard": ("torchtitan's", "parallelism.data_parallel_shard"),
    "dp_replicate": ("torchtitan's", "parallelism.data_parallel_replicate"),
    "fsdp": ("Hugging Face's", "parallelism.strategy: fsdp"),
    "deepspeed": ("Hugging Face's", "parallelism.strategy: deepspeed"),
    "nproc_per_node": ("torchrun's", "launch.processes_per_node"),
    "gpus_per_node": ("Slurm's", "launch.processes_per_node (the GPUs are in the site file)"),
    "ntasks_per_node": ("Slurm's", "launch.processes_per_node"),
    "num_processes": ("accelerate's", "launch.processes_per_node"),
    "nnodes": ("torchrun's", "launch.nodes"),
    "num_nodes": ("Lightning's", "launch.nodes"),
    "num_machines": ("accelerate's", "launch.nodes"),
    "rdzv_endpoint": ("torchrun's", "launch.rendezvous"),
    "walltime": ("PBS's", "launch.time_limit"),
    "partition": ("Slurm's", "partition of the site file (launch.site)"),
    "account": ("Slurm's", "account of the site file (launch.site)"),
    "run_name": ("Hugging Face's", "name, at the top of the recipe"),
    "output_dir": ("Hugging Face's", "name, at the top of the recipe; the run folder follows it"),
    "datasets": ("axolotl's", "data.source with kind: datasets"),
    "dataset": ("LLaMA-Factory's", "data.source"),
    "stage": ("LLaMA-Factory's", "kind, of a stage"),
}

EXPLANATIONS: dict[str, str] = {
    # Names of settings that other tools have and this one has not.
    "gradient_accumulation_steps": (
        "it is derived: training.global_batch_size / (ranks * training.micro_batch_size)"
    ),
    "gradient_checkpointing": "there is no such setting; lower training.micro_batch_size instead",
    "resume_from_checkpoint": "a run resumes by itself; run the same command again",
    "auto_resume_from_checkpoints": "a run resumes by itself; run the same command again",
    "overwrite_output_dir": "a run is never overwritten; give it another name",
    "world_size": "it is derived: launch.nodes * launch.processes_per_node",
}


def unknown_key(
    key: str, where: str, allowed: Collection[str], elsewhere: Sequence[str] = ()
) -> str:
    """Return the message for a key that a mapping does not have.

    Args:
        key: What was written.
        where: The mapping, such as ``lr_scheduler``.
        allowed: Its keys.
        elsewhere: Dotted settings of other sections that end in ``key``.
    """
    message = f"unknown key '{key}' in {where}; "
    spelling = _same_letters(key, allowed)
    if spelling:
        return f"{message}did you mean '{spelling}'?"
    if key in FOREIGN_NAMES:
        owner, here = FOREIGN_NAMES[key]
        return f"{message}'{key}' is {owner} name; here it is {here}"
    if elsewhere:
        return f"{message}it belongs elsewhere: {' or '.join(elsewhere)}"
    if key in EXPLANATIONS:
        return message + EXPLANATIONS[key]
    near = nearest(key, allowed)
    if near:
        return f"{message}did you mean '{near}'?"
    return f"{message}known keys: {', '.join(allowed)}"


def unknown_word(word: str, what: str, allowed: Collection[str]) -> str:
    """Return the message for a value that is not among the choices."""
    choices = ", ".join(allowed) or "none"
    near = _same_letters(word, allowed) or nearest(word, allowed)
    hint = f"; did you mean '{near}'?" if near else ""
    return f"unknown {what} '{word}'; expected one of: {choices}{hint}"


def nearest(word: str, allowed: Collection[str]) -> str | None:
    """Return the allowed word most like ``word``, if any is alike."""
    match = difflib.get_close_matches(word.lower(), allowed, n=1, cutoff=0.6)
    return match[0] if match else None


def _same_letters(word: str, allowed: Collection[str]) -> str | None:
    letters = _letters(word)
    return next((name for name in allowed if _letters(name) == letters), None)


def _letters(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "").replace(" ", "")
